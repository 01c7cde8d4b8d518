--- The few SVG elements that charts need, as text. Under chart.lua and roofline.lua.
--   svg.text(x, y, s, anchor, colour)   svg.line(x1, y1, x2, y2, width)   svg.document(width, height, elements)
-- Everything that comes from outside goes through svg.escape.

local M = { grey = "#4d4d4d", pale = "#999999", good = "#1b7837", bad = "#b2182b" }

local ENTITY = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }

function M.escape(s) return (tostring(s):gsub('[&<>"]', ENTITY)) end

function M.text(x, y, s, anchor, colour)
  return ('<text x="%.1f" y="%.1f" font-family="sans-serif" font-size="12" text-anchor="%s" fill="%s">%s</text>'):format(
    x, y, anchor or "start", colour or "black", M.escape(s))
end

function M.line(x1, y1, x2, y2, width)
  return ('<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%s"/>'):format(
    x1, y1, x2, y2, M.pale, width or "0.5")
end

function M.document(width, height, elements)
  local head = ('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d">'):format(
    width, height, width, height)
  local ground = ('<rect width="%d" height="%d" fill="white"/>'):format(width, height)
  return table.concat({ head, ground, table.concat(elements, "\n"), "</svg>", "" }, "\n")
end

return M
