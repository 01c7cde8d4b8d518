--- The weights of a convolution as panels: a step that writes, for every block of `rows` output channels, the rows'
-- weights side by side, tap after tap in the order of the layout's loops; the biases in front. Read by conv_direct.lua.
--
-- Where a row's taps lie side by side, `lanes` of them for `lanes` rows are turned in registers at a time; elsewhere one
-- tap is gathered from all rows. The last block repeats its last row where there are fewer; what comes of it is dropped.

local M = {}

-- `width` rows from `first` of the panel on, all taps turned in squares of lanes x lanes. The first square is followed by
-- the one that makes the rest a multiple of lanes, so that no square is partial.
local function turn_rows(b, p, first, w)
  local lanes, width = b.lanes, math.min(b.lanes, p.rows - first)
  local rest, all = p.taps % lanes, b:m_tail(b:const(width))
  local from, to = b:copy(w.from), b:g_addk(w.to, first * b.bytes)
  for row = 1, first do b:g_set(from, b:g_add(from, row < p.whole and w.step or w.last_step)) end
  local advance = b:g_addk(b:const((rest > 0 and rest or lanes)), 0)
  b:loop(b:const(math.ceil(p.taps / lanes)), function()
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

-- words: step between rows, step into the rows that only the last block lacks (0 there), first row, panel
local function turn_block(p)
  return function(b)
    local w = { step = b:arg(0), last_step = b:arg(1), from = b:arg(2), to = b:arg(3) }
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

-- How many of `taps` taps phase `phase` of `phases` has.
local function taps_of(taps, phase, phases) return math.floor((taps - phase + phases - 1) / phases) end

-- C: gathers every tap in the loops' order: rows of taps, rows and columns in phases where the layout has them.
local function gather(k, c, p, block)
  local bytes = k:bytes(c.dtype)
  local rows, columns = unpack(p.phases)
  k:open("for (long i = 0; i < %dL; i++)", c.depth)
  for row_phase = 0, rows - 1 do
    k:open("for (long kh = %dL; kh < %dL; kh += %dL)", row_phase, c.tap[1], rows)
    k:line("char *source = from + (i * %s + kh * %s) * %dL;", k:dim(c.ws[2]), k:dim(c.ws[3]), bytes)
    for phase = 0, columns - 1 do
      local count = taps_of(c.tap[2], phase, columns)
      k:call(block, { "step", "last_step", ("source + %dL * %s"):format(phase * bytes, k:dim(c.ws[4])), "to", ("%dL"):format(count),
        ("%s * %dL"):format(k:dim(c.ws[4]), columns * bytes) })
      k:line("to += %dL;", count * p.rows * bytes)
    end
    k:close()
  end
  k:close()
end

--- Writes the step. p: rows, blocks (per group), phases = { of window rows, of columns }, 2 = even ones come first. Gives the
-- panels:
-- p.taps, p.whole = rows that every block has, p.bytes of a panel, p.address(group, block).
function M.step(k, c, p)
  local D, bytes = k.dims, k:bytes(c.dtype)
  p.taps = c.depth * c.tap[1] * c.tap[2]
  p.whole = c.each - (p.blocks - 1) * p.rows
  p.bytes = (p.taps + (c.bias and 1 or 0)) * p.rows * bytes
  local temp = k:temp(D:const(c.groups * p.blocks * p.bytes))
  function p.address(group, block)
    return ("(%s + (%s * %dL + %s) * %dL)"):format(k:ptr(temp), k:atom(group), p.blocks, k:atom(block), p.bytes)
  end
  local one = D:const(1)
  local line = c.ws[4] == one and c.ws[3] == D:const(c.tap[2]) and c.ws[2] == D:const(c.tap[1] * c.tap[2])
  local turned = line and p.phases[1] * p.phases[2] == 1 and p.taps >= k:lanes(c.dtype) and k:lanes(c.dtype) > 1
  local block = k:block(turned and turn_block(p) or gather_block(p), c.dtype)
  local biases = c.bias and k:block(gather_block(p), c.dtype)
  k:step { tiles = D:const(c.groups * p.blocks), label = "weights" }
  k:tiles(function(t)
    k:line("long o = %s / %dL * %dL + %s %% %dL * %dL;", t, p.blocks, c.each, t, p.blocks, p.rows)
    k:line("long last = %s %% %dL == %dL;", t, p.blocks, p.blocks - 1)
    k:line("long step = %s * %dL, last_step = last ? 0 : step;", k:dim(c.ws[1]), bytes)
    k:line("char *from = %s, *to = %s + %s * %dL;", k:at(c.w, { "o" }), k:ptr(temp), t, p.bytes)
    if biases then
      k:line("long bias_step = %s * %dL;", k:dim(c.bias.strides[1]), bytes)
      k:call(biases, { "bias_step", "last ? 0 : bias_step", k:at(c.bias, { "o" }), "to", "1L", "0L" })
      k:line("to += %dL;", p.rows * bytes)
    end
    if turned then
      k:call(block, { "step", "last_step", "from", "to" })
    else
      gather(k, c, p, block)
    end
  end)
end

return M
