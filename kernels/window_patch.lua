--- What a pass over sliding windows reads, brought into a stack buffer: some lines of some neighbouring planes, padding
-- filled in, columns taken apart where they are strided. Used by window.lua, which computes from it.
--
-- Ways a line of x lies in the patch, `parts` stretches of `pitch` elements:
--   in place  no patch: x itself, where nothing is padded and columns lie side by side, or two and two in windows of two
--   rows      one, the columns themselves
--   pairs     two, even and odd columns counted from the first window's first (column stride 2)
--   columns   one per window column, gathered
-- Locals in C: first plane, `planes`; first output line `line`, `lines`; first output column `column`, `columns`.

local copy = require "kernels.conv_copy"

local M = {}

local PATCH_BYTES = 26 * 1024

-- Window columns less one, as elements that a line of the patch has over the output columns.
local function overhang(win)
  if win.way == "pairs" then return math.floor((win.tap[2] - 1) / 2) end
  return win.way == "columns" and 0 or (win.tap[2] - 1) * win.dilation[2]
end

--- Sets win.way, win.paired (columns are two and two, in place), win.parts, win.capacity (elements), win.most (columns of a
-- tile); false when not one line fits.
function M.plan(k, win)
  local plain = k.dims:value(win.xs[4]) == 1
  local inside = plain and win.pad[1] + win.pad[2] == 0
  win.paired = inside and win.stride[2] == 2 and win.tap[2] == 2 and win.dilation[2] == 1 and not win.weights
  if win.stride[2] == 1 or win.paired then
    win.way = inside and "in place" or "rows"
  else
    win.way = plain and win.stride[2] == 2 and win.dilation[2] == 1 and "pairs" or "columns"
  end
  win.parts = win.way == "pairs" and 2 or win.way == "columns" and win.tap[2] or 1
  win.capacity = math.floor(PATCH_BYTES / k:bytes(win.dtype))
  win.high = (win.tap[1] - 1) * win.dilation[1] + 1 -- lines that one window spans
  local columns = math.floor(win.capacity / (win.high * win.parts)) - overhang(win)
  win.most = math.min(win.most, math.floor(columns / 64) * 64)
  return win.way == "in place" or win.most > 0
end

--- C locals pitch (elements between rows of the patch), span (rows of a line, in elements), some_planes, some_lines of a pass.
function M.sizes(k, win)
  if win.way == "in place" then
    k:line("long pitch = %s, span = pitch, some_planes = planes, some_lines = lines;", k:dim(win.xs[3]))
    return
  end
  k:line("long pitch = columns + %dL, span = pitch * %dL;", overhang(win), win.parts)
  k:line("long all = ((lines - 1) * %dL + %dL) * span, some_lines = lines;", win.stride[1], win.high)
  k:line("long some_planes = %dL / all;", win.capacity)
  k:line("if (some_planes > planes) some_planes = planes;")
  k:open("if (some_planes < 1)")
  k:line("some_planes = 1; some_lines = (%dL / span - %dL) / %dL + 1;", win.capacity, win.high, win.stride[1])
  k:close()
end

-- Words of the walk over rows low .. high - 1 and the columns from `column` of x on, to `to` in a line of the patch.
local function walk(k, win, column, to)
  local bytes = k:bytes(win.dtype)
  local row, channel = k:dim(win.xs[3]), k:dim(win.xs[2])
  return {
    "m_planes", "high - low",
    ("x + ((above + low) * %s + (%s) * %s) * %dL"):format(row, column, k:dim(win.xs[4]), bytes), ("%s * %dL"):format(row, bytes),
    ("(%s - (high - low) * %s) * %dL"):format(channel, row, bytes),
    ("(char *)%s + (low * span + %s) * %dL"):format(win.buffer, to, bytes), ("span * %dL"):format(bytes),
    ("(rows - (high - low)) * span * %dL"):format(bytes),
  }
end

local function column_step(k, win, stride) return ("%s * %dL"):format(k:dim(win.xs[4]), stride * k:bytes(win.dtype)) end

local function call(k, block, first, words)
  for _, word in ipairs(words) do first[#first + 1] = word end
  k:call(block, first)
end

-- C: columns left .. right - 1 of `size` columns from `before` on exist.
local function existing(k, win, size)
  k:line("long left = before < 0 ? -before : 0, right = %s - before;", k:dim(win.size[2]))
  k:line("if (right > %s) right = %s;", size, size)
end

local FILL = {}

function FILL.rows(k, win, blocks)
  existing(k, win, "pitch")
  k:line("if (low > 0 || high < rows || left > 0 || right < pitch) clear = 1;")
  k:open("if (clear)")
  k:call(blocks.fill, { "m_planes * rows * span", win.buffer })
  k:close()
  k:open("if (right > left && high > low)")
  call(k, blocks.row, { "right - left", column_step(k, win, 1) }, walk(k, win, "before + left", "left"))
  k:close()
end

function FILL.pairs(k, win, blocks)
  local bytes = k:bytes(win.dtype)
  existing(k, win, "span")
  k:line("if (low > 0 || high < rows || left > 0 || right < span) clear = 1;")
  k:open("if (clear)")
  k:call(blocks.fill, { "m_planes * rows * span", win.buffer })
  k:close()
  k:open("if (right > left && high > low)")
  local function place(at) return ("(%s %% 2 * pitch + %s / 2) * %dL"):format(at, at, bytes) end
  k:line("long wanted = right - left;")
  call(k, blocks.pair, copy.pair_words(k, k:lanes(win.dtype), "wanted", "(wanted + 1) / 2", "wanted / 2", place "left",
    place "(left + 1)"), walk(k, win, "before + left", "0L"))
  k:close()
end

function FILL.columns(k, win, blocks)
  k:call(blocks.fill, { "m_planes * rows * span", win.buffer })
  k:open("for (long kw = 0; kw < %dL; kw++)", win.tap[2])
  k:line("long shift = before + kw * %dL;", win.dilation[2])
  local left, right = copy.valid(k, win.stride[2], "shift", k:dim(win.size[2]), "columns")
  k:open("if (%s > %s && high > low)", right, left)
  call(k, blocks.row, { ("%s - %s"):format(right, left), column_step(k, win, win.stride[2]) },
    walk(k, win, ("shift + %s * %dL"):format(left, win.stride[2]), ("kw * pitch + %s"):format(left)))
  k:close()
  k:close()
end

function M.blocks(k, win)
  if win.way == "in place" then return end
  local pairs_way = win.way == "pairs"
  win.buffer = k:buffer(win.dtype, win.capacity + 64) -- vectors at the end of a line reach past it
  return {
    fill = copy.fill(k, win.outside, win.dtype),
    row = not pairs_way and copy.rows(k, win.way == "rows" and k.dims:value(win.xs[4]) == 1, win.dtype),
    pair = pairs_way and copy.pairs(k, { even = true, odd = true }, win.dtype),
  }
end

--- C: fills the patch for planes `plane` .. and output lines `at` .., m_planes and m_lines of them; then `patch` is the
-- address of the first window's first element, plane_step the bytes between planes.
function M.fill(k, win, blocks, x)
  local bytes = k:bytes(win.dtype)
  k:line("long above = at * %dL - %dL, before = column * %dL - %dL;", win.stride[1], win.pad[1], win.stride[2], win.pad[2])
  k:line("char *x = %s;", x)
  if win.way == "in place" then
    k:line("char *patch = x + (above * pitch + before) * %dL;", bytes)
    k:line("long plane_step = %s * %dL;", k:dim(win.xs[2]), bytes)
    return
  end
  k:line("long rows = (m_lines - 1) * %dL + %dL, clear = 0;", win.stride[1], win.high)
  k:line("long low = above < 0 ? -above : 0, high = %s - above;", k:dim(win.size[1]))
  k:line("if (high > rows) high = rows;")
  FILL[win.way](k, win, blocks)
  k:line("char *patch = (char *)%s;", win.buffer)
  k:line("long plane_step = rows * span * %dL;", bytes)
end

return M
