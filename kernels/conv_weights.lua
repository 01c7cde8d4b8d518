--- The weights of a convolution as panels: for every block of `rows` output channels, the rows' weights side by side, tap
-- after tap as the weights have them; the biases in front. Read by conv_direct.lua.
--
-- Where a row's taps lie side by side, `lanes` of them for `lanes` rows are turned in registers at a time; elsewhere one
-- tap is gathered from all rows. The last block repeats its last row where there are fewer; what comes of it is dropped.

local M = {}

-- `width` rows from `first` of the panel on, all taps turned in squares of lanes x lanes. The first square is followed by
-- the one that makes the rest a multiple of lanes, so that no square is partial.
local function turn_rows(b, p, first, w)
  local lanes, width = b.lanes, math.min(b.lanes, p.rows - first)
  local all = b:m_tail(b:const(width))
  local from, to = b:copy(w.from), b:g_addk(w.to, first * b.bytes)
  for row = 1, first do b:g_set(from, b:g_add(from, row < p.whole and w.step or w.last_step)) end
  local advance = b:copy(w.advance)
  b:loop(w.times, function()
    local row, square = b:copy(from), {}
    for j = 1, lanes do
      square[j] = j <= width and b:load(row) or square[width]
      if j < width then b:g_set(row, b:g_add(row, first + j < p.whole and w.step or w.last_step)) end
    end
    for j, v in ipairs(b:transpose(square)) do
      b:store(to, v, (j - 1) * p.rows * b.bytes, width < lanes and all or nil)
    end
    b:g_set(from, b:g_add(from, b:g_mulk(advance, b.bytes)))
    b:g_set(to, b:g_add(to, b:g_mulk(advance, b.bytes * p.rows)))
    b:g_set(advance, b:const(lanes))
  end)
end

-- words: step between rows, step into the rows that only the last block lacks (0 there), first row, panel, how many squares,
-- taps from the first to the next
local function turn_block(p)
  return function(b)
    local w = { step = b:arg(0), last_step = b:arg(1), from = b:arg(2), to = b:arg(3), times = b:arg(4), advance = b:arg(5) }
    for first = 0, p.rows - 1, b.lanes do turn_rows(b, p, first, w) end
  end
end

-- words: as above, then how many taps, and their step. Gathers `count` taps of all rows.
local function gather_block(p)
  return function(b)
    local step, last_step, count, tap_step = b:arg(0), b:arg(1), b:arg(4), b:arg(5)
    local from, to = b:copy(b:arg(2)), b:copy(b:arg(3))
    b:loop(count, function()
      local row = b:copy(from)
      for j = 0, p.rows - 1 do
        b:store1(to, b:bcast(row), j * b.bytes)
        if j + 1 < p.rows then b:g_set(row, b:g_add(row, j + 1 < p.whole and step or last_step)) end
      end
      b:g_set(from, b:g_add(from, tap_step))
      b:g_set(to, b:g_addk(to, p.rows * b.bytes))
    end)
  end
end

-- C: gathers every tap, a row of the window at a time.
local function gather(k, c, p, block)
  local bytes = k:bytes(c.dtype)
  k:open("for (long i = 0; i < %dL; i++)", c.depth * c.tap[1])
  k:line("char *source = from + (i / %dL * %s + i %% %dL * %s) * %dL;", c.tap[1], k:dim(c.ws[2]), c.tap[1], k:dim(c.ws[3]), bytes)
  k:call(block, { "step", "last_step", "source", "to", ("%dL"):format(c.tap[2]), ("%s * %dL"):format(k:dim(c.ws[4]), bytes) })
  k:line("to += %dL;", c.tap[2] * p.rows * bytes)
  k:close()
end

--- Plans the panels. p: rows, blocks (per group); adds p.taps, p.whole = rows of the last block, p.bytes of a panel,
-- p.address(group, block). Gives { kept = made of parameters alone, tiles = number, body = fn(t) that writes the panel of C
-- tile t }.
function M.part(k, c, p)
  local D, bytes = k.dims, k:bytes(c.dtype)
  p.taps = c.depth * c.tap[1] * c.tap[2]
  p.whole = c.each - (p.blocks - 1) * p.rows
  p.bytes = (p.taps + (c.bias and 1 or 0)) * p.rows * bytes
  local kept = k:constant(c.w) and not (c.bias and not k:constant(c.bias))
  local temp = k:temp(D:const(c.groups * p.blocks * p.bytes), kept)
  function p.address(group, block)
    return ("(%s + (%s * %dL + %s) * %dL)"):format(k:ptr(temp), k:atom(group), p.blocks, k:atom(block), p.bytes)
  end
  local line = c.ws[4] == D:const(1) and c.ws[3] == D:const(c.tap[2]) and c.ws[2] == D:const(c.tap[1] * c.tap[2])
  local lanes = k:lanes(c.dtype)
  local turned = line and lanes > 1 and p.taps >= lanes
  local key = ("%d %d"):format(p.rows, p.whole)
  local gathered = (c.bias or not turned) and k:block(gather_block(p), c.dtype, "conv gather taps " .. key)
  local block = turned and k:block(turn_block(p), c.dtype, "conv turn " .. key) or gathered
  return { kept = kept, tiles = c.groups * p.blocks, body = function(t)
    k:line("long o = %s / %dL * %dL + %s %% %dL * %dL;", t, p.blocks, c.each, t, p.blocks, p.rows)
    k:line("long last = %s %% %dL == %dL;", t, p.blocks, p.blocks - 1)
    k:line("long step = %s * %dL, last_step = last ? 0 : step;", k:dim(c.ws[1]), bytes)
    k:line("char *from = %s, *to = %s + %s * %dL;", k:at(c.w, { "o" }), k:ptr(temp), t, p.bytes)
    if c.bias then
      k:line("long bias_step = %s * %dL;", k:dim(c.bias.strides[1]), bytes)
      k:call(gathered, { "bias_step", "last ? 0 : bias_step", k:at(c.bias, { "o" }), "to", "1L", "0L" })
      k:line("to += %dL;", p.rows * bytes)
    end
    if turned then
      local rest = p.taps % lanes
      k:call(block, { "step", "last_step", "from", "to", math.ceil(p.taps / lanes), rest > 0 and rest or lanes })
    else
      gather(k, c, p, block)
    end
  end }
end

--- Writes the step before the sums: panels of weights and, where x is not read in place (copied: conv_copy.lua), its copy.
-- Panels that are kept have a step of their own.
function M.steps(k, panels, copied)
  local D = k.dims
  if panels.kept then
    k:step { tiles = D:const(panels.tiles), label = "weights", when = "prepare" }
    k:tiles(panels.body)
    if not copied then return end
    k:step { tiles = copied.tiles, label = "padding" }
    return k:tiles(copied.body)
  end
  k:step { tiles = copied and D:add(D:const(panels.tiles), copied.tiles) or D:const(panels.tiles), label = "weights, padding" }
  k:tiles(function(t)
    if not copied then return panels.body(t) end
    k:open("if (%s < %dL)", t, panels.tiles)
    panels.body(t)
    k:close()
    k:open("else")
    k:line("long u = %s - %dL;", t, panels.tiles)
    copied.body("u")
    k:close()
  end)
end

return M
