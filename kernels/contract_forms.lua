--- The forms of contractions as C glue around their vector blocks: tile loops, packing, buffers. Between contract.lua, which
-- describes the operands (o) and chooses forms, and contract_blocks.lua.
--
-- Every function below starts steps of its own. `active` is a dim, 1 or 0: whether they have work for these extents; `when`
-- as in k:step.

local blocks = require "kernels.contract_blocks"

local M = {}

local K_PIECE = 512       -- bytes along k that are packed at a time, at least
local PANEL = 16 * 1024   -- bytes of a panel of b: half of the usual L1
local DEEP = 64           -- of a tile, from where on memory can be asked for what its end needs
local SHALLOW = 16        -- up to so much, a register tile takes no longer than what it reads and writes beside the operands
local STACK = 55 * 1024   -- of all buffers of a tile
local HIGHEST = 48        -- rows of a tile of dots; contract.lua asks for no more unless they are narrow
M.SINGLE_ROWS = 3         -- of a tile of single rows
M.TURNED = 16             -- columns of a transposed tile, at most

local function bytes_of(k, o, stride) return ("%s * %dL"):format(k:dim(stride), o.bytes) end

-- Starts a step whose tiles are `height` rows by `width` columns; body() is the code of one, with C names a, b (char *: first
-- elements of the tile's operands), row (of the output), m, n (extents of the tile).
local function step(k, o, active, label, height, width, body, when)
  local D = k.dims
  local across, down = D:ceildiv(o.n, width), D:ceildiv(o.m, height)
  o.wide = (D:value(o.n) or 1) % width == 0 and width or nil
  k:step { tiles = D:mul(active, D:mul(k:product(o.batch), D:mul(down, across))), label = label, when = when }
  k:tiles(function(t)
    local n0, m0 = { "c0", across, width }, { "m0", down, height }
    local inner, outer = n0, m0
    if k:choice("contract_order", { "across", "down" }) == "down" then inner, outer = m0, n0 end
    k:line("long %s = %s %% %s * %dL, rest = %s / %s;", inner[1], t, k:dim(inner[2]), inner[3], t, k:dim(inner[2]))
    k:line("long %s = rest %% %s * %dL, batch = rest / %s;", outer[1], k:dim(outer[2]), outer[3], k:dim(outer[2]))
    k:line("long m = %s - m0 < %dL ? %s - m0 : %dL;", k:dim(o.m), height, k:dim(o.m), height)
    k:line("long n = %s - c0 < %dL ? %s - c0 : %dL;", k:dim(o.n), width, k:dim(o.n), width)
    k:line("long row = batch * %s + m0;", k:dim(o.m))
    local at = #o.batch > 0 and k:unravel(o.batch, "batch") or {}
    local function first(arg, strides, stride, start)
      local index, all = { unpack(at) }, { unpack(strides) }
      index[#index + 1], all[#all + 1] = start, stride
      return ("%s + (%s) * %dL"):format(k:read(arg), k:offset(arg.offset, all, index), o.bytes)
    end
    k:line("char *a_at = (char *)%s;", first(o.a, o.batch_a, o.am, "m0"))
    k:line("char *b_at = (char *)%s;", first(o.b, o.batch_b, o.bn, "c0"))
    body()
  end)
end

-- The epilogue of the tile, from rows of raw sums `line` elements apart.
local function finish(k, o, raw, line)
  k:epilogue_rows { row = "row", rows = "m", column = "c0", n = o.wide or "n", from = ("(char *)%s"):format(raw),
    from_step = ("%dL"):format(line * o.bytes), plus = o.plus }
end

-- Columns of a tile of dots: so many that their rows of b are about 256 KiB, of 128 to 512 bytes.
local function dots_widths(k, o)
  local least, list = 128 / o.bytes, {}
  local best = math.floor(256 * 1024 / ((k.dims:value(o.k) or 1) * o.bytes) / least) * least
  list[1] = math.max(least, math.min(4 * least, best))
  for _, width in ipairs { 4 * least, 2 * least, least } do
    if width ~= list[1] then list[#list + 1] = width end
  end
  return list
end

function M.dots(k, o, active, narrow, when)
  local rows, columns = blocks.dots_shape(o.lanes, o.dtype)
  local height, width = HIGHEST, k:choice("contract_dots", dots_widths(k, o))
  if narrow then height, width = 128, 128 / o.bytes end
  local line = width + o.lanes
  local tag = o.whole and "whole" or "any"
  local function divides(by) return (k.dims:value(o.n) or 1) % by == 0 end
  local dots = k:block(blocks.dots(rows, columns, o.whole), o.dtype, "contract dots " .. tag)
  local dot = k:block(blocks.dot(o.whole), o.dtype, "contract dot " .. tag)
  step(k, o, active, "dots", height, width, function()
    local raw, scratch = k:buffer(o.dtype, height * line), k:buffer(o.dtype, o.lanes * o.lanes)
    local am, bn, out = bytes_of(k, o, o.am), bytes_of(k, o, o.bn), line * o.bytes .. "L"
    local depth = k:dim(o.k)
    local function rest(from_row, count, from_column, groups, group)
      k:call(dot, { depth, ("a_at + %s * %s"):format(from_row, am), am, count, ("b_at + %s * %s"):format(from_column, bn), bn,
        groups, group, ("(char *)%s + (%s * %dL + %s) * %dL"):format(raw, from_row, line, from_column, o.bytes), out, scratch })
    end
    k:line("long rows = m / %dL * %dL, columns = n / %dL * %dL;", rows, rows, columns, columns)
    local function dots_from(first, count)
      k:call(dots, { depth, ("a_at + %s * %s"):format(first, am), am, count, "b_at", bn, ("columns / %dL"):format(columns),
        ("(char *)%s + %s * %s"):format(raw, first, out), out })
    end
    k:open("if (rows > 0)")
    dots_from("0", ("rows / %dL"):format(rows))
    k:open("if (m - rows > 1)") -- the last rows once more, with those left: cheaper than one by one
    dots_from(("(m - %dL)"):format(rows), "1")
    k:line("rows = m;")
    k:close()
    if not divides(columns) then
      k:line("if (columns < n)")
      rest("0", "rows", "columns", "1", "n - columns")
    end
    k:close()
    k:open("if (rows < m)")
    rest("rows", "m - rows", "0", ("n / %dL"):format(o.lanes), o.lanes)
    if not divides(o.lanes) then
      k:line("long done = n / %dL * %dL;", o.lanes, o.lanes)
      k:line("if (done < n)")
      rest("rows", "m - rows", "done", "1", "n - done")
    end
    k:close()
    finish(k, o, raw, line)
  end, when)
end

-- A form of tiles: register tile (rows, vectors of columns), tile (rows, columns), elements of k that are packed at a time.
-- What is packed is packed once per tile, so the tile is long across it; all buffers together stay in 56 KiB. panels: b is
-- in panels already. across: k is so short that memory decides: few rows, and all panels that the first-level cache holds.
function M.tile_form(k, o, uneven_n, panels)
  local mr, nv = blocks.tile_shape(o.lanes, o.dtype)
  local panel = math.max(nv * o.lanes, 128 / o.bytes)
  local heights, width, piece = { 256, 128 }, panel, K_PIECE / o.bytes
  if not o.a_along_k then
    heights, width = { 32 }, (o.b_along_n and not uneven_n and 8 or 4) * panel
  elseif o.b_along_n then
    heights, width = { 64, 32 }, 4 * panel
  end
  if o.a_along_k and o.bytes == 4 then piece = math.min(2 * piece, PANEL / (nv * o.lanes * o.bytes)) end
  if panels and o.a_along_k then
    heights, piece = nv * o.lanes * o.bytes < 128 and { 256, 128 } or { 128, 256, 64 }, 16 * K_PIECE / o.bytes
  end
  local depth, n = k.dims:value(o.k), k.dims:value(o.n)
  if panels and o.a_along_k and depth and depth <= SHALLOW and n and n % (nv * o.lanes) == 0 then
    local panels_near = math.min(n, 2048 / o.bytes, PANEL / (math.max(depth, 1) * o.bytes)) / (nv * o.lanes)
    return { mr = mr, nv = nv, height = 24, width = math.floor(panels_near) * nv * o.lanes, piece = piece, across = true }
  end
  local name = panels and "contract_panel_" or "contract_"
  local height = k:choice(name .. "rows", heights)
  mr = k:choice(name .. "unroll", mr == 8 and { 8, 14, 12, 6 } or { mr, mr - 2 })
  piece = k:choice(name .. "depth", { piece, piece / 2 })
  if o.a_along_k then -- beside a panel of b
    local left = STACK - (panels and 0 or piece * nv * o.lanes * o.bytes)
    height = math.min(height, math.floor(left / (width * o.bytes)))
  end
  if not o.a_along_k or mr > 8 then height = math.floor(height / mr) * mr end
  return { mr = mr, nv = nv, height = height, width = width, piece = piece }
end

function M.single_rows(o)
  local nv = o.lanes > 1 and 8 or 4
  return { mr = 1, nv = nv, height = M.SINGLE_ROWS, width = nv * o.lanes, piece = K_PIECE / o.bytes / 4 }
end

--- The transposed product, for few columns: they become the rows.
function M.turned_form(o)
  local mr, nv = blocks.tile_shape(o.lanes, o.dtype)
  return { mr = mr, nv = nv, height = math.ceil(M.TURNED / mr) * mr, width = 512 / o.bytes, piece = K_PIECE / o.bytes, turned = true }
end

-- Blocks that pack; along: rows of what is packed are contiguous.
local function packing(k, o, along)
  return along and k:block(blocks.turn(), o.dtype, "contract turn") or k:block(blocks.copy(), o.dtype, "contract copy")
end

-- Packs a where its k step is not 1.
local function pack_a(k, o, packed, line)
  local ak, am = bytes_of(k, o, o.ak), bytes_of(k, o, o.am)
  if o.a_along_m then
    k:call(packing(k, o, true), { "depth", "m", "a_k", ak, packed, line })
  else
    k:call(packing(k, o, false), { "m", "depth", "a_k", am, ak, packed, line })
  end
end

-- Panels of b, packed once: temporary and bytes of one, all of k deep and up to a whole number of lanes, which `turn` fills.
function M.panels(k, o, form)
  local D, nr = k.dims, form.nv * o.lanes
  local line = D:mul(D:mul(D:ceildiv(o.k, o.lanes), D:const(o.lanes)), D:const(nr * o.bytes))
  local across = D:ceildiv(o.n, nr)
  local panels = { temp = k:temp(D:mul(across, line), true), bytes = line }
  k:step { tiles = across, label = "panels", when = "pack" }
  k:tiles(function(t)
    k:line("long j = %s * %dL, wide = %s - j < %dL ? %s - j : %dL;", t, nr, k:dim(o.n), nr, k:dim(o.n), nr)
    local bn, bk, step_out = bytes_of(k, o, o.bn), bytes_of(k, o, o.bk), nr * o.bytes .. "L"
    k:line("char *from = %s + (%s) * %dL, *to = %s + %s * %s;", k:read(o.b), k:offset(o.b.offset, { o.bn }, { "j" }), o.bytes,
      k:ptr(panels.temp), t, k:dim(line))
    k:call(packing(k, o, o.b_along_k), o.b_along_k and { "wide", k:dim(o.k), "from", bn, "to", step_out }
      or { k:dim(o.k), "wide", "from", bk, bn, "to", step_out })
  end)
  return panels
end

-- Leaves in b_j and b_step where the panel of columns j .. j + wide - 1 is.
local function place_b(k, o, form, panel, panels)
  local bk, bn, nr = bytes_of(k, o, o.bk), bytes_of(k, o, o.bn), form.nv * o.lanes
  if panels then
    k:line("char *b_j = %s + (c0 + j) / %dL * %s + k0 * %dL;", k:ptr(panels.temp), nr, k:dim(panels.bytes), nr * o.bytes)
    k:line("long b_step = %dL, wide = n - j < %dL ? n - j : %dL;", nr * o.bytes, nr, nr)
    return
  end
  k:line("char *b_j = b_k + j * %s;", bn)
  k:line("long b_step = %s, wide = n - j < %dL ? n - j : %dL;", bk, nr, nr)
  if not panel then return end
  k:open("if (%s)", o.b_along_n and ("wide < %dL"):format(nr) or "1")
  k:call(packing(k, o, o.b_along_k and not o.b_along_n), o.b_along_k and not o.b_along_n
    and { "wide", "depth", "b_j", bn, panel, nr * o.bytes .. "L" } or { "depth", "wide", "b_j", bk, bn, panel, nr * o.bytes .. "L" })
  k:line("b_j = (char *)%s; b_step = %dL;", panel, nr * o.bytes)
  k:close()
end

-- Heights of the register tiles of a tile whose rows are read as they lie: full ones, then 4, 2 and 1. Each with C expressions: how
-- many of them, and rows above them.
local function heights(k, o, form)
  local mr, known = form.mr, k.dims:value(o.m)
  local function fit(by) return known and known % by == 0 and form.height % by == 0 end
  k:line("long whole = m / %dL;", mr)
  local list, above, size = { { mr, "whole", "0L" } }, ("(whole * %dL)"):format(mr), mr
  if mr == 6 and not fit(6) then k:line("if (m % 6L / 2L == 1L && whole > 0) whole--;") end -- two of four rows take eight
  for _, h in ipairs { 4, 2, 1 } do
    if h < size and not fit(size) then
      local count = k:name "count"
      k:line("long %s = (m - %s) / %dL;", count, above, h)
      list[#list + 1] = { h, count, above }
      above, size = ("(%s + %s * %dL)"):format(above, count, h), h
    end
  end
  return list
end

-- The register tiles of one panel. t: form, heights; packed = { rows of a packed, bytes from one to the next } where a is; sums = C
-- address and byte step of the rows of sums, or ending = what finishes them in registers; panel = bytes from one to the next; twin: a
-- tile is two panels, and too low register tiles to keep the multipliers busy take both at once; across: one call takes all.
local function multiply(k, o, t, nv)
  local function rows(height, count, first, from, step)
    local twin = t.twin and height < 4
    local words = { "depth", from, step, count, "b_j", "b_step", t.panel or "0", ("n / %dL"):format(nv * o.lanes) }
    local how, key = { twin = twin, deep = t.deep, across = t.across, next = t.panel and not t.across and height >= 4 }, nil
    if t.ending then
      how.ending = t.ending:over("row + " .. first, "c0 + j", words)
    else
      key = ("contract tile %d %d %s %s"):format(height, nv, tostring(twin), tostring(how.next))
      words[9], words[10], words[11] = ("%s + %s * %s"):format(t.sums[1], first, t.sums[2]), t.sums[2], "k0 > 0"
    end
    k:open(twin and "if (%s > 0 && j == 0)" or "if (%s > 0)", count)
    k:call(k:block(blocks.tile(height, twin and 2 * nv or nv, how), o.dtype, key), words)
    k:close()
  end
  local mr = t.form.mr
  if t.packed then return rows(mr, ("(m + %dL) / %dL"):format(mr - 1, mr), "0L", t.packed[1], t.packed[2]) end
  local am = bytes_of(k, o, o.am)
  for _, h in ipairs(t.heights) do rows(h[1], h[2], h[3], ("a_k + %s * %s"):format(h[3], am), am) end
end

-- The tiles of one panel, with half a register tile when nothing is in the other half.
local function panel_tiles(k, o, t, last)
  local half = t.form.nv == 2 and last > 0 and last <= o.lanes and k.dims:value(o.n)
  if half then
    k:open("if (wide <= %dL)", o.lanes)
    multiply(k, o, t, 1)
    k:close(" else {")
    k.depth = k.depth + 1
  end
  multiply(k, o, t, t.form.nv)
  if half then k:close() end
end

-- The epilogue of a tile of the transposed product: its columns are rows of the output.
local function finish_turned(k, o, raw, form)
  local turned = k:buffer(o.dtype, form.width * form.height)
  k:call(packing(k, o, true), { "m", "n", raw, form.width * o.bytes .. "L", turned, form.height * o.bytes .. "L" })
  k:epilogue_rows { row = ("batch * %s + c0"):format(k:dim(o.n)), rows = "n", column = "m0", n = "m", from = ("(char *)%s"):format(turned),
    from_step = form.height * o.bytes .. "L", plus = o.plus }
end

--- Where one piece is all of k, register tiles fit and the epilogue is short, it is done in registers; else on rows of sums.
function M.tiles(k, o, active, form, label, when, panels)
  local D, nr = k.dims, form.nv * o.lanes
  local last = (D:value(o.n) or 1) % nr
  local fits = not form.turned and o.a_along_k and (last == 0 or form.nv == 2 and last == o.lanes)
    and (D:value(o.k) or 1 / 0) <= form.piece
  local a_line = form.piece + 64 / o.bytes -- elements from row to row of packed a
  step(k, o, active, label, form.height, form.width, function()
    local t = { form = form, ending = fits and k:ending(o.plus) or nil, deep = (D:value(o.k) or 0) >= DEEP }
    local raw = not t.ending and k:buffer(o.dtype, form.height * form.width)
    local panel = not panels and (not o.b_along_n or last > 0) and k:buffer(o.dtype, form.piece * nr)
    if o.a_along_k then
      t.heights = heights(k, o, form)
    else
      t.packed = { k:buffer(o.dtype, math.ceil(form.height / o.lanes) * o.lanes * a_line), a_line * o.bytes .. "L" }
    end
    t.panel, t.across = panels and k:dim(panels.bytes), t.ending and form.across
    t.twin = panels and o.wide and form.width == 2 * nr and not t.across
    if raw then t.sums = { ("(char *)%s + j * %dL"):format(raw, o.bytes), form.width * o.bytes .. "L" } end
    k:open("for (long k0 = 0; k0 == 0 || k0 < %s; k0 += %dL)", k:dim(o.k), form.piece)
    k:line("long depth = %s - k0 < %dL ? %s - k0 : %dL;", k:dim(o.k), form.piece, k:dim(o.k), form.piece)
    k:line("char *a_k = a_at + k0 * %s, *b_k = b_at + k0 * %s;", bytes_of(k, o, o.ak), bytes_of(k, o, o.bk))
    if t.packed then pack_a(k, o, t.packed[1], t.packed[2]) end
    k:open("for (long j = 0; j < n; j += %s)", t.across and "n" or nr .. "L")
    place_b(k, o, form, panel, panels)
    panel_tiles(k, o, t, last)
    k:close()
    k:close()
    if form.turned then
      finish_turned(k, o, raw, form)
    elseif raw then
      finish(k, o, raw, form.width)
    end
  end, when)
end

return M
