--- Between planes and rows of channels: squares of registers are turned on the way into and out of the stack buffers of
-- conv_channels.lua, which hold [pixel][channel].

local M = {}

-- words: lines, pixels of a line, sums of the first, from line to line; plane of the last channel there is, from line to line, from
-- plane to plane, and the same for the channels that only the last vector lacks (0 there). As in conv_tile.lua, channels are stored
-- last to first.
local function out_block(p)
  return function(b)
    local n, from, to = b:arg(1), b:copy(b:arg(2)), b:copy(b:arg(4))
    local pixel = p.rows * b.bytes
    b:loop(b:arg(0), function()
      local x, y = b:copy(from), b:copy(to)
      b:each(n, { { x, bytes = pixel }, y }, function(mask)
        local square, plane = {}, b:copy(y)
        for i = 1, b.lanes do square[i] = b:load(x, (i - 1) * pixel) end
        square = b:transpose(square)
        for j = b.lanes, 1, -1 do
          b:store(plane, square[j], 0, mask)
          if j > 1 then b:g_set(plane, b:g_sub(plane, j <= p.last and b:arg(6) or b:arg(7))) end
        end
      end)
      b:g_set(from, b:g_add(from, b:arg(3)))
      b:g_set(to, b:g_add(to, b:arg(5)))
    end)
  end
end

-- words: lines, pixels of a line, plane of the first channel, from line to line, pixels in the buffer, from line to line, from plane
-- to plane, and into the channels that only the last vector lacks (0 there). What a line has beyond its last pixel is laid over by
-- the next one.
local function in_block(p)
  return function(b)
    local n, from, to = b:arg(1), b:copy(b:arg(2)), b:copy(b:arg(4))
    local pixel = b.lanes * b.bytes
    b:loop(b:arg(0), function()
      local x, y = b:copy(from), b:copy(to)
      b:each(n, { x, { y, bytes = pixel } }, function(mask)
        local square, plane = {}, b:copy(x)
        for j = 1, b.lanes do
          square[j] = b:load(plane, 0, mask)
          if j < b.lanes then b:g_set(plane, b:g_add(plane, j < p.last and b:arg(6) or b:arg(7))) end
        end
        for i, v in ipairs(b:transpose(square)) do b:store(y, v, (i - 1) * pixel) end
      end)
      b:g_set(from, b:g_add(from, b:arg(3)))
      b:g_set(to, b:g_add(to, b:arg(5)))
    end)
  end
end

--- The two blocks; p: rows of channels in the buffer of sums, last = channels of the last vector.
function M.out_of(k, c, p) return k:block(out_block(p), c.dtype, ("conv turn out %d %d"):format(p.rows, p.last)) end
function M.into(k, c, p) return k:block(in_block(p), c.dtype, ("conv turn in %d"):format(p.last)) end

--- C: the sums of `count` lines of the pass to the planes of s.target.
function M.store(k, c, p, s)
  local bytes, lanes, width = k:bytes(c.dtype), k:lanes(c.dtype), k:dim(c.out[2])
  local plane = ("%s * %dL"):format(k:dim(s.plane), bytes)
  k:line("long flat = columns == %s, begin = start + pass * %s;", width, width)
  k:open("for (long f = 0; f * %dL < valid; f++)", lanes)
  k:line("long there = valid - f * %dL < %dL ? valid - f * %dL : %dL;", lanes, lanes, lanes, lanes)
  k:call(s.turn, { "flat ? 1 : count", "flat ? count * columns : columns",
    ("(char *)%s + f * %dL"):format(s.buffer, lanes * bytes), ("columns * %dL"):format(p.rows * bytes),
    ("%s + (begin + (f * %dL + there - 1) * %s) * %dL"):format(k:write(s.target), lanes, k:dim(s.plane), bytes),
    ("%s * %dL"):format(width, bytes), plane, ("there < %dL ? 0 : %s"):format(lanes, plane) })
  k:close()
end

--- C: the rows above .. below - 1 and columns before .. before + pitch - 1 of x that the pass reads, to the buffer s.pixels.
function M.fetch(k, c, p, s)
  local bytes, row = k:bytes(c.dtype), k:dim(c.xs[3])
  local plane, pixel = ("%s * %dL"):format(k:dim(c.xs[2]), bytes), k:lanes(c.dtype) * bytes
  local width = k:dim(c.size[2])
  k:line("long whole = pitch == %s && pitch == %s, height = below > above && before < %s ? below - above : 0;", width, row, width)
  k:call(s.fetch, { "whole ? 1 : height", "whole ? height * pitch : pitch",
    ("x + (above * %s + before) * %dL"):format(row, bytes), ("%s * %dL"):format(row, bytes), ("(char *)%s"):format(s.pixels),
    ("pitch * %dL"):format(pixel), plane, ("valid < %dL ? 0 : %s"):format(p.rows, plane) })
end

return M
