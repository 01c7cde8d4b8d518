--- The bar chart of a comparison as SVG.
--   chart.bars{ title =, rows = { { name =, ratio =, peers = { [name] = ratio } or nil }, ... } } -> SVG text
-- ratio: time over the best peer's. Bars grow from 1 on a logarithmic scale, to the left when faster; dots are the other
-- peers. What is beyond the scale ends at its edge; the number beside the bar is the truth.

local svg = require "esper.bench.svg"

local M = {}

local LEFT, WIDTH, ROW, TOP, REST = 270, 560, 18, 60, 60
local REACH = 3 -- powers of two either side of 1
local MIDDLE, UNIT = LEFT + WIDTH / 2, WIDTH / 2 / REACH

local function x_of(ratio) return MIDDLE + UNIT * math.max(-REACH, math.min(REACH, math.log(ratio) / math.log(2))) end

local function bar(out, row, y)
  local x, colour = x_of(row.ratio), row.ratio > 1 and svg.bad or svg.good
  out[#out + 1] = svg.text(LEFT - 8, y + 12, row.name, "end")
  out[#out + 1] = ('<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>'):format(math.min(x, MIDDLE), y + 2,
    math.max(1, math.abs(x - MIDDLE)), ROW - 5, colour)
  out[#out + 1] = svg.text(LEFT + WIDTH + 12, y + 12, ("%.2f"):format(row.ratio), "start", colour)
  for name, ratio in pairs(row.peers or {}) do
    out[#out + 1] = ('<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s" stroke="white"><title>%s %.2f</title></circle>'):format(x_of(ratio),
      y + ROW / 2, svg.grey, svg.escape(name), ratio)
  end
end

function M.bars(spec)
  local height = TOP + #spec.rows * ROW + 30
  local out = { svg.text(12, 24, spec.title) }
  for power = -REACH, REACH do
    local x = MIDDLE + UNIT * power
    out[#out + 1] = svg.line(x, TOP - 6, x, height - 24, power == 0 and 2)
    out[#out + 1] = svg.text(x, TOP - 12, power < 0 and "1/" .. 2 ^ -power or tostring(2 ^ power), "middle")
  end
  for i, row in ipairs(spec.rows) do bar(out, row, TOP + (i - 1) * ROW) end
  out[#out + 1] = svg.text(MIDDLE, height - 6, "time over the best peer's: left of 1 is faster; dots are the other peers",
    "middle", svg.grey)
  return svg.document(LEFT + WIDTH + REST, height, out)
end

return M
