--- Text for people: nearest names, tables, quantities. Used by the command, the REPL and error messages.

local M = {}

-- Edit distance (insert, delete, change, swap of neighbours), cut off above `limit`.
local function distance(a, b, limit)
  if math.abs(#a - #b) > limit then return limit + 1 end
  local before, row = {}, {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local last = row
    row = { [0] = i }
    for j = 1, #b do
      local same = a:byte(i) == b:byte(j)
      row[j] = math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (same and 0 or 1))
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        row[j] = math.min(row[j], before[j - 2] + 1)
      end
    end
    before = last
  end
  return row[#b]
end

--- The candidate nearest to `name` (at most a third of its letters wrong), or nil.
function M.nearest(name, candidates)
  local best, found = math.max(1, math.floor(#name / 3)) + 1, nil
  for _, c in ipairs(candidates) do
    local d = distance(name, c, best)
    if d < best then best, found = d, c end
  end
  return found
end

--- Rows as aligned columns; the first row is the head. align: string of l and r, one per column.
function M.columns(rows, align)
  local width = {}
  for _, row in ipairs(rows) do
    for i, cell in ipairs(row) do width[i] = math.max(width[i] or 0, #tostring(cell)) end
  end
  local lines = {}
  for r, row in ipairs(rows) do
    local cells = {}
    for i, cell in ipairs(row) do
      local right = align:sub(i, i) == "r"
      cells[i] = ("%" .. (right and "" or "-") .. width[i] .. "s"):format(tostring(cell))
    end
    lines[r] = (table.concat(cells, "  "):gsub("%s+$", ""))
  end
  return table.concat(lines, "\n")
end

--- 1234567 -> "1,234,567"
function M.count(n)
  local s = ("%.0f"):format(n)
  local sign, digits = s:match("^(%-?)(%d+)$")
  return sign .. digits:reverse():gsub("(%d%d%d)", "%1,"):reverse():gsub("^,", "")
end

function M.keys(t)
  local out = {}
  for k in pairs(t) do out[#out + 1] = k end
  table.sort(out)
  return out
end

--- Text with anything a terminal could act on shown as \xNN.
function M.printable(s)
  return (s:gsub("[%c\127]", function(c)
    return (c == "\n" or c == "\t") and c or ("\\x%02x"):format(c:byte())
  end))
end

return M
