--- Init specs of a blueprint: g.zeros g.ones g.eye g.const(v) g.uniform(lo, hi) g.normal(mean, deviation)
-- g.kaiming{ slope=, normal= } g.xavier{ gain=, normal= }. Arguments left out take torch's defaults.
-- values: specs as they are; calls: functions (builder, ...) -> spec.
local value = require "esper.ops.value"
local builder = require "esper.ops.builder"

local function number(v, default, what)
  if v == nil then return default end
  if type(v) ~= "number" or v ~= v or v == math.huge or v == -math.huge then
    builder.fail("%s is %s, wanted a finite number", what, value.describe(v))
  end
  return v
end

local function known(options, a, b)
  if options == nil then return {} end
  if type(options) ~= "table" then builder.fail("options are %s, wanted a table", value.describe(options)) end
  for k in pairs(options) do
    if k ~= a and k ~= b then builder.fail("unknown option %s, wanted %s or %s", value.describe(k), a, b) end
  end
  return options
end

local SQRT5 = math.sqrt(5)

local values = {
  zeros = value.init("zeros", 0, 0),
  ones = value.init("ones", 0, 0),
  eye = value.init("eye", 0, 0),
}
local calls = {}
function calls.const(_, v) return value.init("const", number(v, 0, "value"), 0) end
function calls.uniform(_, lo, hi)
  lo, hi = number(lo, -1, "low end"), number(hi, 1, "high end")
  if lo > hi then builder.fail("low end %g is above high end %g", lo, hi) end
  return value.init("uniform", lo, hi)
end
function calls.normal(_, mean, deviation)
  return value.init("normal", number(mean, 0, "mean"), number(deviation, 1, "deviation"))
end
function calls.kaiming(_, options)
  options = known(options, "slope", "normal")
  local slope = number(options.slope, SQRT5, "slope")
  return value.init(options.normal and "kaiming_normal" or "kaiming_uniform", slope, 0)
end
function calls.xavier(_, options)
  options = known(options, "gain", "normal")
  return value.init(options.normal and "xavier_normal" or "xavier_uniform", number(options.gain, 1, "gain"), 0)
end
return { values = values, calls = calls }
