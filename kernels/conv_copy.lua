--- The padded copy of a convolution's input: the planes of a layout (conv_form.lua), padding as zeros, so that the inner
-- loops have no edges. A pass over the input, cheap against the multiply-adds it saves from branches.
--
-- A tile is up to CHANNELS channels of one sample: all their planes are cleared, then the rows that exist are laid in.
-- Three ways, by what a row of the copy is of the row of x: the row itself; every second element, both halves at once
-- (loaded whole and taken apart in registers); any other selection, gathered.

local M = {}
local CHANNELS = 8

-- words: elements, where. Fills them with a number.
local function fill_block(number)
  return function(b)
    local n, to = b:arg(0), b:arg(1)
    local value = b:splat(number)
    b:each(n, { to }, function(mask) b:store(to, value, 0, mask) end)
  end
end

-- Both sides of a walk over channels and rows: body(from, to) for every row. Words from `first` on: channels, rows, x,
-- its row step, its channel step less all rows' steps, and the same three of the copy.
local function rows_of(b, first, body)
  local rows = b:arg(first + 1)
  local from, to = b:copy(b:arg(first + 2)), b:copy(b:arg(first + 5))
  b:loop(b:arg(first), function()
    b:loop(rows, function()
      body(from, to)
      b:g_set(from, b:g_add(from, b:arg(first + 3)))
      b:g_set(to, b:g_add(to, b:arg(first + 6)))
    end)
    b:g_set(from, b:g_add(from, b:arg(first + 4)))
    b:g_set(to, b:g_add(to, b:arg(first + 7)))
  end)
end

-- words: columns, step of x in bytes, then the walk
local function row_block(unit)
  return function(b)
    local n, step = b:arg(0), b:arg(1)
    rows_of(b, 2, function(from, to)
      local x, y = b:copy(from), b:copy(to)
      b:each(n, { unit and x or { x, step = step }, y }, function(mask)
        b:store(y, unit and b:load(x, 0, mask) or b:loads(x, step, 0, mask), 0, mask)
      end)
    end)
  end
end

-- Two vectors of x at `from`, taken apart, to e and o; left, even, odd: elements that exist and are wanted, nil = all.
local function unzip(b, keep, from, e, o, left, even, odd)
  local rest = left and b:g_addk(left, -b.lanes)
  local evens, odds = b:unzip(b:load(from, 0, left and b:m_tail(left)), b:load(from, b.lanes * b.bytes, left and b:m_tail(rest)))
  if keep.even then b:store(e, evens, 0, left and b:m_tail(even)) end
  if keep.odd then b:store(o, odds, 0, left and b:m_tail(odd)) end
end

-- Elements 0, 2, 4.. of x go to `even` and 1, 3, 5.. to `odd`; words: M.pair_words, then the walk. keep.even, keep.odd =
-- false: nobody reads these.
local function pair_block(keep)
  return function(b)
    local full, moved = b:arg(5), b.lanes * b.bytes
    local function left(i, each) return b:g_sub(b:arg(i), b:g_mulk(full, each * b.lanes)) end
    local columns, even, odd = left(0, 2), left(1, 1), left(2, 1)
    rows_of(b, 7, function(from, to)
      local x, e, o = b:copy(from), b:g_add(to, b:arg(3)), b:g_add(to, b:arg(4))
      b:loop(full, function()
        unzip(b, keep, x, e, o)
        b:g_set(x, b:g_addk(x, 2 * moved))
        b:g_set(e, b:g_addk(e, moved))
        b:g_set(o, b:g_addk(o, moved))
      end)
      b:loop(b:arg(6), function() unzip(b, keep, x, e, o, columns, even, odd) end)
    end)
  end
end

--- Words of pair_block: C expressions of the columns of x, the elements wanted for even and for odd (as many, or one less),
-- where they start in a row of the copy (bytes).
function M.pair_words(k, lanes, columns, even, odd, even_at, odd_at)
  local full = k:name("full")
  k:line("long %s = %s > 0 ? %s / %dL : 0;", full, odd, k:atom(odd), lanes)
  return { columns, even, odd, even_at, odd_at, full, ("%s > %s * %dL"):format(k:atom(even), full, lanes) }
end

--- These three as blocks of the unit.
function M.fill(k, number, dtype) return k:block(fill_block(number), dtype, "fill " .. number) end
function M.rows(k, unit, dtype) return k:block(row_block(unit), dtype, "copy rows " .. tostring(unit)) end
function M.pairs(k, keep, dtype)
  return k:block(pair_block(keep), dtype, ("copy pairs %s %s"):format(tostring(keep.even), tostring(keep.odd)))
end

--- C: low and high = the range of i with 0 <= i * stride + shift < size, cut to `count`.
function M.valid(k, stride, shift, size, count)
  local low, high = k:name("low"), k:name("high")
  k:line("long %s = %s < 0 ? (%dL - %s) / %dL : 0, %s = %s - 1 - %s;", low, shift, stride - 1, shift, stride, high, size, shift)
  k:line("%s = %s < 0 ? 0 : %s / %dL + 1;", high, high, high, stride)
  k:line("if (%s > %s) %s = %s;", high, count, high, count)
  return low, high
end

-- The words of the walk: rows low .. high - 1 of the copy; their row is i * step + shift of x.
local function walk_words(k, c, l, w)
  local bytes = k:bytes(c.dtype)
  local row, pitch = k:dim(c.xs[3]), k:dim(l.row)
  return {
    "channels", ("%s - %s"):format(w.high, w.low),
    ("x + ((%s * %dL + %s) * %s + %s * %s) * %dL"):format(w.low, w.step, w.shift, row, w.column, k:dim(c.xs[4]), bytes),
    ("%dL * %s"):format(w.step * bytes, row),
    ("(%s - (%s - %s) * %dL * %s) * %dL"):format(k:dim(c.xs[2]), w.high, w.low, w.step, row, bytes),
    ("to + (%s + %s * %s) * %dL"):format(w.to, w.low, pitch, bytes),
    ("%s * %dL"):format(pitch, bytes),
    ("(%s - (%s - %s) * %s) * %dL"):format(k:dim(l.channel), w.high, w.low, pitch, bytes),
  }
end

local function append(list, more)
  for _, word in ipairs(more) do list[#list + 1] = word end
  return list
end

local function column_step(k, c, stride) return ("%s * %dL"):format(k:dim(c.xs[4]), stride * k:bytes(c.dtype)) end

-- All rows of x, once.
local function lay_rows(k, c, l, block)
  local words = walk_words(k, c, l, { low = "0L", high = k:dim(c.size[1]), step = 1, shift = "0L", column = "0L",
    to = ("%dL * %s + %dL"):format(c.pad[1], k:dim(l.row), c.pad[2]) })
  k:call(block, append({ k:dim(c.size[2]), column_step(k, c, 1) }, words))
end

-- One plane per tap column, gathered: element j of a row is column j * stride + shift.
local function lay_columns(k, c, l, block, w)
  k:open("for (long kw = 0; kw < %dL; kw++)", l.planes)
  k:line("long column = kw * %dL - %dL;", c.dilation[2], c.pad[2])
  local low, high = M.valid(k, c.stride[2], "column", k:dim(c.size[2]), k:dim(l.pitch))
  w.column = ("(column + %s * %dL)"):format(low, c.stride[2])
  w.to = ("%s + kw * %s + %s"):format(w.to, k:dim(l.plane), low)
  k:open("if (%s > %s)", high, low)
  k:call(block, append({ ("%s - %s"):format(high, low), column_step(k, c, c.stride[2]) }, walk_words(k, c, l, w)))
  k:close()
  k:close()
end

-- Even and odd columns of x: column 2i + parity is padded column 2i + parity + pad, of phase (parity + pad) % 2.
local function lay_pairs(k, c, l, block, w)
  local function place(parity)
    local at = parity + c.pad[2]
    local offset = math.floor(at / 2)
    local start = ("(%d * %s + %d) * %dL"):format(at % 2, k:dim(l.plane), offset, k:bytes(c.dtype))
    local n = k:name("kept")
    k:line("long %s = (%s + %dL) / 2;", n, k:dim(c.size[2]), 1 - parity)
    k:line("if (%s > %s - %dL) %s = %s - %dL;", n, k:dim(l.pitch), offset, n, k:dim(l.pitch), offset)
    return n, start
  end
  local even, even_at = place(0)
  local odd, odd_at = place(1)
  w.column = "0L"
  k:call(block, append(M.pair_words(k, k:lanes(c.dtype), k:dim(c.size[2]), even, odd, even_at, odd_at), walk_words(k, c, l, w)))
end

-- C: for every plane of rows that the layout has, the rows of it that exist: row i is row i * step + shift of x.
local function lay_planes(k, c, l, block)
  local lay = l.way == "pairs" and lay_pairs or lay_columns
  k:open("for (long kh = 0; kh < %dL; kh++)", l.row_planes)
  k:line("long shift = kh * %dL - %dL;", l.row_planes > 1 and l.row_shift or 0, c.pad[1])
  local low, high = M.valid(k, l.row_stride, "shift", k:dim(c.size[1]), k:dim(l.rows))
  k:open("if (%s > %s)", high, low)
  lay(k, c, l, block, { low = low, high = high, step = l.row_stride, shift = "shift",
    to = ("kh * %d * %s"):format(l.planes, k:dim(l.plane)) })
  k:close()
  k:close()
end

local function block_of(k, c, l)
  local unit = k.dims:value(c.xs[4]) == 1
  if not l.plane then return M.rows(k, unit, c.dtype) end
  if not (l.paired and unit) then return M.rows(k, false, c.dtype) end
  l.way = "pairs"
  local both, odd = l.planes == 2, c.pad[2] % 2 == 1
  return M.pairs(k, { even = both or not odd, odd = both or odd }, c.dtype)
end

--- nil when x is read in place; else { tiles = dim, body = fn(t) that writes what C tile t copies }.
function M.part(k, c, l)
  if not l.temp then return nil end
  local clear, lay = M.fill(k, 0, c.dtype), block_of(k, c, l)
  local parts = math.ceil(l.channels / CHANNELS)
  return { tiles = k.dims:mul(c.samples, k.dims:const(parts)), body = function(t)
    k:line("long sample = %s / %dL, first = %s %% %dL * %dL;", t, parts, t, parts, CHANNELS)
    k:line("long channels = %dL - first < %dL ? %dL - first : %dL;", l.channels, CHANNELS, l.channels, CHANNELS)
    k:line("char *x = %s, *to = %s;", k:at(c.x, { "sample", "first" }), l.address("sample", "first"))
    k:call(clear, { ("channels * %s"):format(k:dim(l.channel)), "to" })
    if l.plane then lay_planes(k, c, l, lay) else lay_rows(k, c, l, lay) end
  end }
end

return M
