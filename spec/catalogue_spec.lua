-- Every blueprint of the catalogue: parameter counts of the reference system, and both certificates in both modes on
-- every instruction set of this processor, with bits that do not depend on the number of threads.
local compile = require "esper.compile"
local esper = require "esper"
local judge = require "support.judge"
local kernel = require "esper.kernel"
local native = require "esper.native"
local validate = require "esper.validate"

local SHAPES = tonumber(os.getenv "ESPER_SPEC_SHAPES" or 20)
-- Under sanitizers the large ones, which run the same code for minutes, are left out.
local LARGEST = os.getenv "ESPER_SPEC_SANITIZED" and 1e5 or math.huge

-- At the defaults: C = 64, d = 384, and the first generation's own sizes.
local PARAMS = {
  ["cnn/noop"] = 0, ["cnn/norm"] = 129, ["cnn/attention"] = 2112, ["cnn/depthwise"] = 4800, ["cnn/bottleneck"] = 4480,
  ["cnn/conv_small"] = 4224, ["cnn/conv_light"] = 36992, ["cnn/conv_heavy"] = 73984,
  ["transformer/noop"] = 0, ["transformer/norm"] = 769, ["transformer/lora"] = 6144, ["transformer/lora_large"] = 24576,
  ["transformer/attention"] = 591360, ["transformer/flex_attention"] = 591360, ["transformer/mlp_small"] = 590976,
  ["transformer/mlp"] = 1181568,
  ["first/attn_std"] = 2362368, ["first/attn_split_qk"] = 1772544, ["first/mlp_gelu"] = 4722432, ["first/mlp_swiglu"] = 9446144,
  ["first/ln_rms"] = 768, ["first/router_top2"] = 196864, ["first/expert_mlp"] = 4722432, ["first/expert_swiglu"] = 7084800,
  ["first/cap_fuse_hffn"] = 0, ["first/router_moe_aux"] = 196864, ["first/proj_lora"] = 98304, ["first/proj_ia3"] = 768,
  ["first/kv_cache_8bit"] = 0, ["first/load_bal_ema"] = 0,
}
local HOSTS = { "hosts/cnn_host", "hosts/transformer_host" } -- the reference system gives no counts for these
-- convolutions 3-32-64-128 of 3x3 without bias, two per channel of norm, classifier; token and position tables, six layers of
-- two norms, qkv, projection and a four-fold feed-forward, a last norm, tied head
local HOST_PARAMS = {
  ["hosts/cnn_host"] = 9 * (3 * 32 + 32 * 64 + 64 * 128) + 2 * (32 + 64 + 128) + 128 * 10 + 10,
  ["hosts/transformer_host"] = (50257 + 256) * 384 + 6 * (4 * 384 + 4 * 384 * 384 + 4 * 384 + 8 * 384 * 384 + 5 * 384) + 2 * 384,
}

describe("catalogue", function()
  it("holds the blueprints of both generations and the hosts, and nothing else", function()
    local expected = { unpack(HOSTS) }
    for name in pairs(PARAMS) do expected[#expected + 1] = name end
    table.sort(expected)
    assert.same(expected, esper.catalogue())
  end)

  local pools = {}
  for i, threads in ipairs { 1, 2, 4 } do
    local out = native.new "es_pool *[1]"
    assert(native.C.es_pool_new(threads, out, native.fresh()) == 0)
    pools[i] = native.gc(out[0], native.C.es_pool_release)
  end

  local function prove(name, mode, isa)
    local made = kernel.wrap(assert(compile.compile(name, { mode = mode, isa = isa })))
    assert.equal(PARAMS[name] or HOST_PARAMS[name], made:param_count())
    local c = validate.certify(made, { shapes = SHAPES, pools = pools, torch = isa == judge.isas[1], ranges = false })
    assert.is_nil(c.failure)
    assert.is_true(c.passed)
    assert.equal(SHAPES, c.functional.shapes)
    local in_rounds = native.C.es_plan_rounds(made.plan).count > 0 and math.floor(SHAPES / 3) or 0 -- every third draw again
    assert.equal(SHAPES + in_rounds, c.memory.runs)
    assert.is_true(c.functional.judged > 0)
    assert.same(c, validate.decode(validate.encode(c)))
  end

  for _, name in ipairs(esper.catalogue()) do
    for _, mode in ipairs((PARAMS[name] or HOST_PARAMS[name]) <= LARGEST and { "eval", "train" } or {}) do
      for _, isa in ipairs(judge.isas) do
        it(("%s (%s, %s): parameters, certificate over %d shapes"):format(name, mode, isa, SHAPES), function() prove(name, mode, isa) end)
      end
    end
  end
end)
