-- The certificate is itself tested: kernels with one planted mistake in their C text must be refused, saying what failed,
-- on which draw and where; the unmutated ones must pass.
local compile = require "esper.compile"
local kernel = require "esper.kernel"
local native = require "esper.native"
local validate = require "esper.validate"
local C = native.C

local SEED, SHAPES, PER_PAIR = 3, 20, 7
local SUBJECTS = {
  { "transformer/mlp", "dim=128 expand=2", "dim=16 expand=2" }, { "transformer/attention", "dim=96 heads=3" }, { "cnn/conv_light", "channels=8" },
  { "transformer/norm", "dim=16" }, { "first/router_top2", "dim=128 experts=8" }, { "cnn/depthwise", "channels=8" },
}

-- A subject's third word: small sizes. A mistake in one op may be smaller than what the long sums behind it may round to; the
-- same line in the small kernel then decides.

-- Each mutation: name, Lua pattern of a place in a line of the unit, and what replaces it (nil: not this place).
local MUTATIONS = {
  { "loop runs one too far", "(for %([^;]*; [%w_%.]+ <)( [^;]+;)", "%1=%2" },
  { "loop starts one late", "(for %([%w_ ]+ = )0;", "%11;" },
  { "stride doubled", "([%w_]+ %* )(%d+)([^%w])", function(a, n, rest) return a .. (2 * tonumber(n)) .. rest end },
  { "subtraction swapped", "%(([%w_%.%[%]]+) %- ([%w_%.%[%]]+)%)", "(%2 - %1)" },
  { "addition for product", "(%w+%[?%w*%]?) %* (%w+%[%w+%])", "%1 + %2" },
  { "constant wrong", "(%d%.%d+)(e?[%-%+]?%d*f?)", function(digits, tail) return (tonumber(digits) * 1.01) .. tail end },
  { "sign lost", "= %-([%w_%[%]]+);", "= %1;" },
  { "comparison turned", " ([%w_%[%]]+) > ([%w_%[%]]+) %?", " %1 < %2 ?" },
}

-- Places where the mistake changes nothing: { mutation, place, why }.
local EQUIVALENT = {
  { "loop runs one too far", "for %(long t = lo; t < hi", "a tile past the end is empty" },
  { "loop runs one too far", "for %(long first = 0; first < visible", "a block past the end is empty" },
  { "loop runs one too far", "for %(long p = 0; p < planes", "a pass past the end has no planes" },
  { "subtraction swapped", "%(v40 %- v41%) << 23", "the larger of a sorted pair (router): its exponent is 0" },
  { "subtraction swapped", "%(v40 %- v41%) %+ 127u", "the same" },
  { "constant wrong", "1%.0f%) %* v24 %+ 1%.0f%) %* %*%(float %*%)&v4%d%)", "the same" },
  { "subtraction swapped", "%(m %- whole%)%)%);", "an address that is not used again" },
  { "subtraction swapped", "%(lines %- 1%)", "it decides between two ways to the same sums" },
  { "subtraction swapped", "%(pos_%d+ %- start_%d+%)", "the two are equal where a tile begins" },
  { "subtraction swapped", "%(low %- c0%)", "both are 0 without padding" },
  { "subtraction swapped", "%(m %- 1%)", "topk moves positions only where m is 1" },
  { "subtraction swapped", "%(v%d+ %- v%d+%).*&= 0x80000000u %- 1;", "the sign is cleared in the same line" },
  { "constant wrong", "2%.0f%);", "of -122, where an exponential is clamped" },
  { "constant wrong", "2%.0f;", "of 32, from where on tanh and sigmoid are 1", "= 3$" },
  { "constant wrong", "5%.0f", "where erfc's two forms meet" },
  { "loop runs one too far", "for %(long pass = 0; pass < lines", "a pass past the end is empty" },
  { "loop runs one too far", "for %(long p = 0; p < planes", "no planes are left" },
  { "loop runs one too far", "for %(long done = 0; done < lines", "no lines are left" },
  { "subtraction swapped", "%(v40 %- v41%) << 23", "the larger of a sorted pair (router): its exponent is 0" },
  { "subtraction swapped", "%(v40 %- v41%) %+ 127u", "the same" },
  { "constant wrong", "1%.0f%) %* v24 %+ 1%.0f%) %* %*%(float %*%)&v44%)", "the same" },
  { "subtraction swapped", "%(lines %- 1%) %* d%d+ %+ columns%) [/%%] ", "a price: which of two right ways is taken" },
}
-- The line from the place on fits an entry, and what stands before it the entry's fourth field, when it has one.
local function equivalent(name, unit, place)
  local before, rest = unit:sub(math.max(1, place - 40), place - 1), unit:match("[^\n]*", place)
  for _, e in ipairs(EQUIVALENT) do
    if e[1] == name and rest:find("^" .. e[2]) and (not e[4] or before:find(e[4])) then return true end
  end
end

local function object_of(unit)
  local out = native.gc(native.new "es_text", C.es_text_clear)
  if C.es_jit_compile(unit, out, native.fresh()) ~= 0 then return nil end
  return native.string(out.bytes, out.length)
end

-- The same plan over another unit; nil when the text is no C any more.
local function rebuilt(made, unit)
  local object = object_of(unit)
  if not object then return nil end
  local code, out = native.new "es_code *[1]", native.new "es_kernel *[1]"
  if C.es_code_load(object, #object, code, native.fresh()) ~= 0 then return nil end
  local image = native.gc(code[0], C.es_code_release)
  if C.es_kernel_new(made.plan, image, out, native.fresh()) ~= 0 then return nil end
  local copy = {}
  for k, v in pairs(made) do copy[k] = v end
  copy.kernel, copy.object, copy.unit = native.gc(out[0], C.es_kernel_release), object, unit
  return kernel.wrap(copy)
end

-- Byte ranges where a pattern fits, spread over the text.
local function places(unit, pattern)
  local all, at = {}, 1
  while true do
    local from, to = unit:find(pattern, at)
    if not from then break end
    all[#all + 1], at = { from, to }, to + 1
  end
  local chosen, step = {}, math.max(1, math.floor(#all / PER_PAIR))
  for i = 1 + SEED % step, #all, step do if #chosen < PER_PAIR then chosen[#chosen + 1] = all[i] end end
  return chosen
end

local function mutate(unit, place, pattern, with)
  local piece = unit:sub(place[1], place[2])
  return unit:sub(1, place[1] - 1) .. piece:gsub(pattern, with) .. unit:sub(place[2] + 1)
end

-- Is the same mistake in the same line of the subject's small kernel refused?
local function refused_small(subject, m, unit, place)
  if not subject[3] then return false end
  local small = assert(compile.compile(subject[1], { set = subject[3], mode = "eval", isa = "scalar" }))
  local line_start = place[1]
  while line_start > 1 and unit:sub(line_start - 1, line_start - 1) ~= "\n" do line_start = line_start - 1 end
  local at = small.unit:find(unit:match("[^\n]*", line_start), 1, true)
  if not at then return false end
  local from = at + place[1] - line_start
  local other = rebuilt(small, mutate(small.unit, { from, from + place[2] - place[1] }, m[2], m[3]))
  return other and not validate.certify(other, { shapes = SHAPES, seed = SEED, torch = false }).passed
end

describe("mutants", function()
  it("are refused, and what they come from passes", function()
    local count, faults, survived = 0, 0, {}
    for _, subject in ipairs(SUBJECTS) do
      local made = assert(compile.compile(subject[1], { set = subject[2], mode = "eval", isa = "scalar" }))
      local sound = validate.certify(kernel.wrap(made), { shapes = SHAPES, seed = SEED, torch = false })
      assert.is_nil(sound.failure, subject[1])
      for _, m in ipairs(MUTATIONS) do
        for _, place in ipairs(places(made.unit, m[2])) do
          local unit = mutate(made.unit, place, m[2], m[3])
          local piece = made.unit:sub(place[1], place[2])
          local other = unit ~= made.unit and not equivalent(m[1], made.unit, place[1]) and rebuilt(made, unit)
          if other and other.object ~= made.object then
            count = count + 1
            local c = validate.certify(other, { shapes = SHAPES, seed = SEED, torch = false })
            if c.passed and not refused_small(subject, m, made.unit, place) then
              local line = select(2, unit:sub(1, place[1]):gsub("\n", "")) + 1
              survived[#survived + 1] = ("%s: %s, line %d: %s"):format(subject[1], m[1], line, piece)
            elseif not c.passed then
              assert.truthy(c.failure:find "^draw %d+" or c.failure:find "^memory: step %d+", c.failure)
              if not c.memory.passed then faults = faults + 1 end
            end
          end
        end
      end
      collectgarbage()
    end
    print(("mutants %d %d %d survived, %d by memory evidence"):format(SEED, count, #survived, faults))
    if #survived > 0 then print(table.concat(survived, "\n")) end
    assert.is_true(count >= 60 and faults >= 5)
    assert.same({}, survived)
  end)
end)
