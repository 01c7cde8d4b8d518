--- Draws what a kernel is tested with: symbol values from the graph's own ranges, and data for every leaf.
-- Between a graph and the certificate (validate.lua). Everything is a pure function of the seed.
--
-- Shapes: edges first (everything 1, one symbol 0 where its range allows, a lane either side of 8 and 16, one symbol
-- larger than a block, a tile or a buffer, an odd mix, a few rows in all), then random small sizes; a draw that makes an
-- extent negative or the work too large is replaced by a smaller one.

local native = require "esper.native"

local M = {}

local EDGES = { 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 5, 4, 6, 12, 13 }
-- By draw: the last symbol and the others. Longer than a piece of keys (attention; once by much, so that what a later
-- piece replaces shows), than a buffer of a row; so few rows that contractions take other forms, in every remainder of their tiles.
local SPLIT = {
  [7] = { 250, 1 }, [9] = { 133, 2 }, [12] = { 7, 1 }, [13] = { 3, 2 }, [14] = { 11, 1 }, [15] = { 260, 1 }, [16] = { 9, 1 },
  [17] = { 1100, 1 }, [18] = { 530, 2 },
}
local WORK_LIMIT = 3e7    -- multiply-adds of one evaluation: tens of milliseconds of oracle and kernel each
local ELEMENT_LIMIT = 2^23

local function generator(seed)
  local state = seed % 2147483647 + 1
  return function(n) -- uniform in 0 .. n-1 (Park and Miller's minimal standard generator)
    state = state * 48271 % 2147483647
    return math.floor(state / 2147483647 * n)
  end
end

-- Rough cost of a graph at given values of all dims: elements written plus contraction work.
local function cost(graph, value)
  local work, largest = 0, 0
  for id = 0, graph:count() - 1 do
    local n = 1
    for _, d in ipairs(graph:shape(id)) do n = n * value(d) end
    local op, inputs = graph:op(id), graph:inputs(id)
    local per = 1
    if op == "linear" or op == "conv1d" or op == "conv2d" then
      for axis, d in ipairs(graph:shape(inputs[2])) do if axis > 1 then per = per * value(d) end end
    elseif op == "matmul" then
      local shape = graph:shape(inputs[1])
      per = value(shape[graph:attr(id, "ta") == 1 and #shape - 1 or #shape])
    elseif op == "sdpa" then
      local k = graph:shape(inputs[2])
      per = 2 * value(k[#k - 1])
    end
    work, largest = work + n * per, math.max(largest, n)
  end
  return work, largest
end
M.cost = cost

-- Values of all dims for symbol values by name, as a function of the handle; nil when something is out of range.
local function evaluate(graph, values)
  local all = graph:dims():eval(values)
  return all and function(d) return all[d] end
end
M.evaluate = evaluate

local function acceptable(graph, value)
  for id = 0, graph:count() - 1 do
    for _, d in ipairs(graph:shape(id)) do if value(d) < 0 then return false end end
  end
  return true
end

--- Symbol values by name for draw `index` (from 1), and the value function of all dims; nil when nothing fits.
function M.symbols(graph, index, seed)
  local symbols = graph:dims():symbols()
  local random = generator(seed * 7919 + index * 104729)
  local function pick(i, shrink, edge)
    local v
    if edge == 1 then v = 1
    elseif edge == 2 then v = i == 1 and 0 or 3
    elseif edge == 3 then v = i == #symbols and 0 or 2
    elseif SPLIT[edge] then v = SPLIT[edge][i == #symbols and 1 or 2]
    elseif edge == 8 then v = i == 1 and 261 or 2        -- over one tile of rows
    elseif shrink == 0 and edge < 12 then v = EDGES[(edge * 5 + i * 3) % #EDGES + 1]
    else v = 1 + random(math.max(1, math.floor(40 / 2 ^ (shrink / 3)))) end
    return math.max(symbols[i].min, math.min(symbols[i].max, v))
  end
  for shrink = 0, 30 do
    local values = {}
    for i, s in ipairs(symbols) do values[s.name] = pick(i, shrink, shrink == 0 and index or 99) end
    local value = evaluate(graph, values)
    if value and acceptable(graph, value) then
      local work, largest = cost(graph, value)
      if work <= WORK_LIMIT and largest <= ELEMENT_LIMIT or shrink == 30 then return values, value end
    end
  end
  return nil
end

-- Exclusive upper bound of the indices an integer leaf may hold: the smallest extent any user indexes with it.
function M.index_bound(graph, id, value)
  local bound
  for user = 0, graph:count() - 1 do
    local inputs, op = graph:inputs(user), graph:op(user)
    if inputs[2] == id then
      local shape = graph:shape(inputs[1])
      local axis = op == "embedding" and 1
        or (op == "gather" or op == "scatter_add") and graph:attr(user, "axis") + 1
        or op == "cross_entropy" and #shape
      if axis then bound = math.min(bound or math.huge, value(shape[axis])) end
    end
  end
  return bound or 100
end

--- Which kind of values (native.sample) a leaf gets in draw `index`.
-- Parameters: even draws their own birth values, odd ones random so that nothing hides behind a zero.
function M.kind(graph, id, index)
  local op = graph:op(id)
  if op == "input" then
    return ({ [4] = "wide", [5] = "tiny", [6] = "special", [9] = "wide" })[index] or "normal"
  end
  local init = native.initname[graph:attr(id, "init")]
  if index % 2 == 0 and op == "param" then return "birth" end
  if op == "buffer" then return init == "ones" and "positive" or "small" end
  if init == "ones" then return "near_one" end
  if init ~= "zeros" then return index % 8 == 7 and "small" or "birth" end -- small: larger than at birth where fan-in is high
  return index % 4 == 3 and "normal" or "small" -- small keeps a residual branch in range, normal reaches every branch of it
end

return M
