--- Charts as SVG text, without any library: bars of time ratios, and rooflines (also as characters for a terminal).
--   chart.bars{ title =, rows = { { name =, ratio =, peers = { [name] = ratio } }, ... } } -> SVG
--       ratio: time over the best peer's; bars grow from 1, left is faster. peers: marks of the others on the same scale
--   chart.roofline{ title =, peaks = peak.measure's, points = { { name =, flops =, bytes =, seconds =, dtype = }, ... } } -> SVG
--   chart.roofline_text(the same) -> lines for a terminal

local M = {}

local FONT = 'font-family="sans-serif" font-size="12"'
local FAST, SLOW, PEER, LINE = "#1b7837", "#b2182b", "#4d4d4d", "#999999"

local function escape(s) return (tostring(s):gsub("[&<>\"]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" })) end

local function document(width, height, body)
  return ('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d">\n<rect width="%d" height="%d" fill="white"/>\n%s\n</svg>\n')
    :format(width, height, width, height, width, height, table.concat(body, "\n"))
end

local function label(x, y, s, anchor, colour)
  return ('<text x="%.1f" y="%.1f" %s text-anchor="%s" fill="%s">%s</text>'):format(x, y, FONT, anchor or "start", colour or "black", escape(s))
end

-- ---- bars ----

local LEFT, WIDTH, ROW, TOP = 270, 560, 18, 60
local REACH = 3 -- powers of two either side of 1

function M.bars(spec)
  local height = TOP + #spec.rows * ROW + 30
  local body, middle, unit = { label(12, 24, spec.title) }, LEFT + WIDTH / 2, WIDTH / 2 / REACH
  local function x_of(ratio) return middle + unit * math.max(-REACH, math.min(REACH, math.log(ratio, 2) / 1)) end
  for power = -REACH, REACH do
    local x = middle + unit * power
    body[#body + 1] = ('<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="%s" stroke-width="%s"/>'):format(x, TOP - 6, x, height - 24,
      LINE, power == 0 and "2" or "0.5")
    body[#body + 1] = label(x, TOP - 12, power < 0 and "1/" .. 2 ^ -power or tostring(2 ^ power), "middle")
  end
  for i, row in ipairs(spec.rows) do
    local y, x = TOP + (i - 1) * ROW, x_of(row.ratio)
    local from, colour = math.min(x, middle), row.ratio > 1 and SLOW or FAST
    body[#body + 1] = label(LEFT - 8, y + 12, row.name, "end")
    body[#body + 1] = ('<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>'):format(from, y + 2, math.max(1, math.abs(x - middle)), ROW - 5, colour)
    body[#body + 1] = label(LEFT + WIDTH + 12, y + 12, ("%.2f"):format(row.ratio), "start", colour)
    for name, ratio in pairs(row.peers or {}) do
      body[#body + 1] = ('<circle cx="%.1f" cy="%.1f" r="3" fill="%s"><title>%s %.2f</title></circle>'):format(x_of(ratio), y + ROW / 2, PEER,
        escape(name), ratio)
    end
  end
  body[#body + 1] = label(middle, height - 6, "time over the best peer's: left of 1 is faster; dots are the other peers", "middle", PEER)
  return document(LEFT + WIDTH + 60, height, body)
end

-- ---- roofline ----

-- Ranges of both axes in powers of ten, wide enough for ceilings and points.
local function ranges(spec)
  local x = { -1, 2 }
  local top = math.log10(spec.peaks.fma.f32)
  local y = { top - 2, top }
  for _, p in ipairs(spec.points) do
    if p.flops > 0 and p.bytes > 0 then
      local intensity, speed = math.log10(p.flops / p.bytes), math.log10(p.flops / p.seconds)
      x[1], x[2] = math.min(x[1], intensity), math.max(x[2], intensity)
      y[1], y[2] = math.min(y[1], speed), math.max(y[2], speed)
    end
  end
  return { math.floor(x[1]), math.ceil(x[2]) }, { math.floor(y[1]), math.ceil(y[2]) }
end

-- What the machine allows at an intensity of 10^x: log10 of flop/s, under the level's bandwidth.
local function ceiling(peaks, level, x) return math.min(math.log10(peaks.fma.f32), math.log10(level.read) + x) end

function M.roofline(spec)
  local w, h, left, top, right = 620, 420, 70, 40, 240
  local xs, ys = ranges(spec)
  local function px(x) return left + (x - xs[1]) / (xs[2] - xs[1]) * w end
  local function py(y) return top + h - (y - ys[1]) / (ys[2] - ys[1]) * h end
  local body = { label(12, 24, spec.title) }
  for x = xs[1], xs[2] do
    body[#body + 1] = ('<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="%s" stroke-width="0.5"/>'):format(px(x), top, px(x), top + h, LINE)
    body[#body + 1] = label(px(x), top + h + 18, ("%g"):format(10 ^ x), "middle")
  end
  for y = ys[1], ys[2] do
    body[#body + 1] = ('<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="%s" stroke-width="0.5"/>'):format(left, py(y), left + w, py(y), LINE)
    body[#body + 1] = label(left - 6, py(y) + 4, ("%g"):format(10 ^ (y - 9)), "end")
  end
  for _, level in ipairs(spec.peaks.levels) do
    local points = {}
    for k = 0, 100 do
      local x = xs[1] + (xs[2] - xs[1]) * k / 100
      local y = ceiling(spec.peaks, level, x)
      if y >= ys[1] then points[#points + 1] = ("%.1f,%.1f"):format(px(x), py(y)) end
    end
    body[#body + 1] = ('<polyline points="%s" fill="none" stroke="black"/>'):format(table.concat(points, " "))
    local at = math.max(xs[1], ys[1] - math.log10(level.read)) + 0.05
    body[#body + 1] = label(px(at), py(ceiling(spec.peaks, level, at)) - 4, level.name)
  end
  for i, p in ipairs(spec.points) do
    if p.flops > 0 and p.bytes > 0 then
      local x, y = px(math.log10(p.flops / p.bytes)), py(math.log10(p.flops / p.seconds))
      body[#body + 1] = ('<circle cx="%.1f" cy="%.1f" r="4" fill="%s"/>'):format(x, y, SLOW)
      body[#body + 1] = label(x + 6, y - 4, tostring(i))
    end
    body[#body + 1] = label(left + w + 12, top + 14 * i, ("%d %s"):format(i, p.name))
  end
  body[#body + 1] = label(left + w / 2, top + h + 36, "operations per byte", "middle")
  body[#body + 1] = label(12, top - 4, "GFLOP/s")
  return document(left + w + right, math.max(top + h + 50, top + 14 * #spec.points + 30), body)
end

local COLUMNS, LINES = 64, 14

function M.roofline_text(spec)
  local xs, ys = ranges(spec)
  local grid = {}
  for r = 0, LINES do grid[r] = {} end
  local function put(x, y, c)
    local col = math.floor((x - xs[1]) / (xs[2] - xs[1]) * COLUMNS + 0.5)
    local row = math.floor((ys[2] - y) / (ys[2] - ys[1]) * LINES + 0.5)
    if grid[row] and col >= 0 and col <= COLUMNS then grid[row][col] = c end
  end
  local levels = spec.peaks.levels
  for col = 0, COLUMNS do
    local x = xs[1] + (xs[2] - xs[1]) * col / COLUMNS
    put(x, ceiling(spec.peaks, levels[1], x), "-")
    put(x, ceiling(spec.peaks, levels[#levels], x), ".")
  end
  for i, p in ipairs(spec.points) do
    if p.flops > 0 and p.bytes > 0 then
      put(math.log10(p.flops / p.bytes), math.log10(p.flops / p.seconds), i < 10 and tostring(i) or i < 36 and string.char(87 + i) or "*")
    end
  end
  local out = {}
  for r = 0, LINES do
    local cells = {}
    for col = 0, COLUMNS do cells[col + 1] = grid[r][col] or " " end
    local y = ys[2] - (ys[2] - ys[1]) * r / LINES
    out[#out + 1] = (("%8.3g |"):format(10 ^ (y - 9)) .. table.concat(cells)):gsub("%s+$", "")
  end
  out[#out + 1] = ("%8s +%s"):format("", ("-"):rep(COLUMNS + 1))
  out[#out + 1] = ("%10s%-30g%34g"):format("", 10 ^ xs[1], 10 ^ xs[2])
  out[#out + 1] = "          GFLOP/s over operations per byte; ceilings: --- nearest cache, ... memory"
  return table.concat(out, "\n")
end

return M
