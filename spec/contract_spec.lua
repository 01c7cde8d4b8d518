-- Contractions of every form agree with the oracle and stay in bounds: extents on both sides of every tile, all transposes,
-- broadcast batches, permuted operands, bias, epilogue, frozen weights; on every instruction set.
local native = require "esper.native"
local one = require "support.one_graph"
local C = native.C

local COUNT = tonumber(os.getenv "ESPER_SPEC_CONTRACTIONS" or 60) -- per instruction set

-- Extents around the sizes of register tiles, panels, pieces and forms.
local ROWS = { 0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 17, 20, 21, 47, 48, 49, 63, 64, 65, 129, 257 }
local DEPTHS = { 0, 1, 3, 8, 15, 16, 17, 31, 32, 64, 96, 128, 129, 256, 300, 513 }
local COLUMNS = { 0, 1, 2, 3, 5, 7, 8, 15, 16, 17, 24, 25, 31, 32, 33, 48, 64, 100, 129, 160 }

local state = 1
local function draw(list)
  state = (state * 69069 + 12345) % 2 ^ 32
  return list[math.floor(state / 2 ^ 16) % #list + 1]
end
local function yes() return draw { false, true } end

-- A leaf of the graph: a parameter where those may have this shape.
local function weight(id, name, shape)
  local empty = ("," .. shape .. ","):find ",0,"
  return ("%%%d = %s \"%s\" f32[%s]%s"):format(id, empty and "input" or "param", name, shape, empty and "" or " init=zeros")
end

-- `rows` as an extent: a symbol or the number itself.
local function extent(rows) return yes() and "m" or tostring(rows) end

local function finish(lines, count, last, shape)
  local function add(text)
    lines[#lines + 1] = ("%%%d = %s"):format(count, text)
    count = count + 1
    return count - 1
  end
  if yes() then last = add(("%s %%%d"):format(draw { "relu", "sigmoid" }, last)) end
  if yes() then
    table.insert(lines, 1, ("%%0 = input \"r\" f32[%s]"):format(shape)) -- a residual; the others were numbered from 1
    last = add(("add %%%d %%0"):format(last))
  else
    table.insert(lines, 1, "%0 = const f32[] value=1")
  end
  lines[#lines + 1] = ("output \"y\" %%%d"):format(last)
  return "symbol m 0 100000\n" .. table.concat(lines, "\n") .. "\n"
end

local function linear(rows, depth, columns)
  local m, turned = extent(rows), yes() -- turned: the rows lie one element apart
  local lines, inputs, count = {}, "%1 %2", 3
  lines[1] = turned and ("%%1 = input \"x\" f32[%d,%s]"):format(depth, m) or ("%%1 = input \"x\" f32[%s,%d]"):format(m, depth)
  lines[2] = weight(2, "w", columns .. "," .. depth)
  if yes() then
    lines[3], inputs, count = weight(3, "b", tostring(columns)), "%1 %2 %3", 4
  end
  if turned then
    lines[#lines + 1] = ("%%%d = permute %%1 perm=1,0"):format(count)
    inputs, count = inputs:gsub("%%1", "%%" .. count), count + 1
  end
  lines[#lines + 1] = ("%%%d = linear %s"):format(count, inputs)
  return finish(lines, count + 1, count, ("%s,%d"):format(m, columns))
end

local function matmul(rows, depth, columns)
  local m, ta, tb = extent(rows), yes(), yes()
  local left, right = draw { "", "2,", "2,1," }, draw { "", "2,", "3," }
  if left == "2," and right == "3," then right = "" end
  local a = ta and ("%d,%s"):format(depth, m) or ("%s,%d"):format(m, depth)
  local b = tb and ("%d,%d"):format(columns, depth) or ("%d,%d"):format(depth, columns)
  local batch = left == "2,1," and (right ~= "" and "2," .. right or left) or left ~= "" and left or right
  return finish({ ("%%1 = input \"x\" f32[%s%s]"):format(left, a), weight(2, "w", right .. b),
    ("%%3 = matmul %%1 %%2 ta=%d tb=%d"):format(ta and 1 or 0, tb and 1 or 0) }, 4, 3, ("%s%s,%d"):format(batch, m, columns))
end

local function value(name, i) return ((i * 7919 + #name * 31 + name:byte() * 17) % 29 - 14) / 16 end

describe("contractions", function()
  for isa = 0, tonumber(C.es_isa_best()) do
    local name = native.string(C.es_isa_name(isa))
    it(("agree with the oracle, %d of them, on %s"):format(COUNT, name), function()
      local failures = {}
      for i = 1, COUNT do
        local rows = draw(ROWS)
        local text = (i % 2 == 0 and linear or matmul)(rows, draw(DEPTHS), draw(COLUMNS))
        if i % 5 == 0 then text = text:gsub("f32", "f64") end
        local problem
        local t, why = one.compile(text, { m = rows }, { mode = "eval", isa = name })
        if t then
          t:give(value)
          local oracle = assert(t:oracle())
          for _, frozen in ipairs { false, C.es_frozen_token() } do
            local results, message = t:guarded(i % 3 == 0, frozen or nil)
            problem = problem or not results and message or results and t:judge(oracle, results)
          end
        end
        problem = problem or not t and why
        if problem then failures[#failures + 1] = ("m = %d: %s\n%s"):format(rows, problem, text) end
      end
      assert.same({}, failures)
    end)
  end
end)
