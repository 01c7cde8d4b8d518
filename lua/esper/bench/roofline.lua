--- Rooflines: operations a second over operations per byte, under what the machine was measured to allow.
--   roofline.svg{ title =, peaks = peak.measure's, points = { { name =, flops =, bytes =, seconds = }, ... } } -> SVG text
--   roofline.text(the same) -> lines for a terminal
-- A slanted ceiling per level of memory (reading), one flat one (f32 multiply-adds). Points without operations or traffic
-- have no place in it and are only listed.

local svg = require "esper.bench.svg"

local M = {}

local log10 = math.log10

local function place(p)
  if p.flops > 0 and p.bytes > 0 then return log10(p.flops / p.bytes), log10(p.flops / p.seconds) end
end

-- Ranges of both axes in whole powers of ten, wide enough for ceilings and points.
local function ranges(spec)
  local top = log10(spec.peaks.fma.f32)
  local x, y = { -1, 2 }, { top - 2, top }
  for _, p in ipairs(spec.points) do
    local intensity, speed = place(p)
    if intensity then
      x[1], x[2] = math.min(x[1], intensity), math.max(x[2], intensity)
      y[1], y[2] = math.min(y[1], speed), math.max(y[2], speed)
    end
  end
  return { math.floor(x[1]), math.ceil(x[2]) }, { math.floor(y[1]), math.ceil(y[2]) }
end

-- What the machine allows at an intensity of 10^x when the data comes from `level`.
local function ceiling(peaks, level, x) return math.min(log10(peaks.fma.f32), log10(level.read) + x) end

-- ---- SVG ----

local W, H, LEFT, TOP, LEGEND = 620, 420, 70, 40, 260

local function frame(spec)
  local xs, ys = ranges(spec)
  local f = { xs = xs, ys = ys, out = { svg.text(12, 16, spec.title) } }
  function f.x(x) return LEFT + (x - xs[1]) / (xs[2] - xs[1]) * W end
  function f.y(y) return TOP + H - (y - ys[1]) / (ys[2] - ys[1]) * H end
  function f.add(element) f.out[#f.out + 1] = element end
  for x = xs[1], xs[2] do
    f.add(svg.line(f.x(x), TOP, f.x(x), TOP + H))
    f.add(svg.text(f.x(x), TOP + H + 18, ("%g"):format(10 ^ x), "middle"))
  end
  for y = ys[1], ys[2] do
    f.add(svg.line(LEFT, f.y(y), LEFT + W, f.y(y)))
    f.add(svg.text(LEFT - 6, f.y(y) + 4, ("%g"):format(10 ^ (y - 9)), "end"))
  end
  f.add(svg.text(LEFT + W / 2, TOP + H + 36, "operations per byte", "middle"))
  f.add(svg.text(12, TOP - 9, "GFLOP/s"))
  return f
end

local function draw_ceiling(f, peaks, level)
  local points = {}
  for k = 0, 100 do
    local x = f.xs[1] + (f.xs[2] - f.xs[1]) * k / 100
    local y = ceiling(peaks, level, x)
    if y >= f.ys[1] then points[#points + 1] = ("%.1f,%.1f"):format(f.x(x), f.y(y)) end
  end
  f.add(('<polyline points="%s" fill="none" stroke="black"/>'):format(table.concat(points, " ")))
  local at = math.max(f.xs[1], f.ys[1] - log10(level.read)) + 0.05
  f.add(svg.text(f.x(at), f.y(ceiling(peaks, level, at)) - 4, level.name))
end

function M.svg(spec)
  local f = frame(spec)
  for _, level in ipairs(spec.peaks.levels) do draw_ceiling(f, spec.peaks, level) end
  for i, p in ipairs(spec.points) do
    local x, y = place(p)
    if x then
      f.add(('<circle cx="%.1f" cy="%.1f" r="4" fill="%s"/>'):format(f.x(x), f.y(y), svg.bad))
      f.add(svg.text(f.x(x) + 6, f.y(y) - 4, i))
    end
    f.add(svg.text(LEFT + W + 12, TOP + 14 * i, ("%d %s"):format(i, p.name)))
  end
  return svg.document(LEFT + W + LEGEND, math.max(TOP + H + 50, TOP + 14 * #spec.points + 30), f.out)
end

-- ---- terminal ----

local COLUMNS, LINES = 64, 14

local function mark(i) return i < 10 and tostring(i) or i < 36 and string.char(87 + i) or "*" end

function M.text(spec)
  local xs, ys = ranges(spec)
  local grid, levels = {}, spec.peaks.levels
  for r = 0, LINES do grid[r] = {} end
  local function put(x, y, c)
    local col = math.floor((x - xs[1]) / (xs[2] - xs[1]) * COLUMNS + 0.5)
    local row = math.floor((ys[2] - y) / (ys[2] - ys[1]) * LINES + 0.5)
    if grid[row] and col >= 0 and col <= COLUMNS then grid[row][col] = c end
  end
  for col = 0, COLUMNS do
    local x = xs[1] + (xs[2] - xs[1]) * col / COLUMNS
    put(x, ceiling(spec.peaks, levels[1], x), "-")
    put(x, ceiling(spec.peaks, levels[#levels], x), ".")
  end
  for i, p in ipairs(spec.points) do
    local x, y = place(p)
    if x then put(x, y, mark(i)) end
  end
  local out = {}
  for r = 0, LINES do
    local cells = {}
    for col = 0, COLUMNS do cells[col + 1] = grid[r][col] or " " end
    local speed = 10 ^ (ys[2] - (ys[2] - ys[1]) * r / LINES - 9)
    out[#out + 1] = (("%8.3g |"):format(speed) .. table.concat(cells)):gsub("%s+$", "")
  end
  out[#out + 1] = ("%8s +%s"):format("", ("-"):rep(COLUMNS + 1))
  out[#out + 1] = ("%10s%-30g%34g"):format("", 10 ^ xs[1], 10 ^ xs[2])
  out[#out + 1] = "          GFLOP/s over operations per byte; --- nearest cache, ... memory"
  return table.concat(out, "\n")
end

return M
