--- The compiler: the pipeline as one function. Every stage takes data and returns data; none calls the next.
--
--   compile.compile(source, opts) -> result | nil, message or array of messages, status name
--   source  blueprint name, path, or declaration
--   opts    set= mode= dtype=      as blueprint.build takes them
--           build=                 who builds the graph: blueprint.build (default) or sandbox.build
--           read= identity=        of sandbox, where build is: then a store is first asked by source, and a hit builds nothing
--           isa=                   "scalar" ...; the best of this machine by default
--           passes=                { text=, name= } a user's pass file, or an array of passes
--           store=                 es_store * or nil
--           size=                  { [symbolic dimension] = extent } of the runs to come, as far as known: it selects among the
--                                  choices tuned here (tuning.lua); the kernel serves all sizes anyhow
--           tuning=                choices of recipes instead of those of the store, else the defaults
--           anew=                  the index may be out of date: look at the tuned choices, and write it again
--           show= listing=         keep the graph before and after every pass; keep the vector ("vec") or machine
--                                  instructions ("asm") of every block
--   result  kernel= plan=          es_kernel *, es_plan *, owned by the garbage collector
--           graph=                 the graph before the passes; of a stored kernel, read from its record when asked for
--           name= mode= dtype= isa= hyper= key= status="SUCCESS"|"CACHED"
--           flops= bytes= workspace= kept=   text over the dims; workspace: of all rows at once; kept: of frozen parameters
--           rounds=                "batch from 131072 bytes on": along which dims, from what workspace on, there are rounds; or ""
--           kernels=               number of steps
--           unit= object=          C text and object code, likewise      certificate_text=   what the store held, or nil
--           ms={ [stage] = milliseconds, total= }
--           report= groups= naive= code= of a fresh compile only: what the passes did, the groups, what all
--               intermediate values would take, per group its steps
--   compile.again(result, choices)  a fresh result once more with other choices (tuning.lua); has no key
--   compile.link(plan, C text or object code) -> es_kernel *      throws { message=, status= }, as stages do
--   compile.programs(result) -> { { name=, text=, lowered= }, ... }   the vector blocks of the unit, made anew from the graph: listing
--       and C text of each, for the range proof (ranges); {}, message when they cannot be made
--   compile.early(source, opts)    the same without kernel: up to the groups
--   compile.key(source, opts)      the same up to the key
--   compile.save(result, store, certificate_text) -> true | nil, message, status
-- dump.lua prints every stage.
local artifact = require "esper.artifact"
local blueprint = require "esper.blueprint"
local native = require "esper.native"
local passes = require "esper.passes"
local tuning = require "esper.tuning"
local C = native.C
local M = {}

-- The stages behind the store, loaded when first run: a hit in a new process needs none of them, and reading them takes longer.
local stage = setmetatable({}, { __index = function(loaded, name)
  loaded[name] = require("esper." .. name)
  return loaded[name]
end })

-- LuaJIT's default of 512 KiB machine code is less than this pipeline fills, and it throws all of it away when full: a
-- service that compiles many blueprints then spends most of its time in LuaJIT's compiler (seen: 31 against 11 ms).
local found, options = pcall(require, "jit.opt")
if found then options.start("maxtrace=8000", "maxmcode=8192") end

-- A stage that fails ends the compile: message and status travel as one table to the pcall in `guarded`.
local function need(value, message, status)
  if value then return value, message end
  error({ message = message or "unknown failure", status = status or "EINTERNAL" }, 0)
end

-- Milliseconds since the last call, kept under the stage's name.
local function stopwatch(r)
  local start = C.es_clock_ms()
  local last = start
  r.ms = {}
  return function(stage)
    local now = C.es_clock_ms()
    r.ms[stage], last, r.ms.total = now - last, now, now - start
  end
end

local function pass_list(given)
  if type(given) ~= "table" then return passes.default() end
  if not given.text then return given end
  return need(passes.user(passes.default(), given.text, given.name))
end

-- Text of a block: its vector instructions, or its machine instructions with the names of the nodes beside them.
local function block_text(name, made, listing, labels)
  if listing == "vec" then return ("%s (%s)\n%s"):format(name, made.type, made:text()) end
  local text = made:assembly()
  if not text then return "" end
  text = text:gsub("node (%d+)", function(n) return labels[tonumber(n)] or "node " .. n end)
  return ("%s (%s, %d lanes)\n%s"):format(name, made.type, made.lanes, text)
end

-- Shows every block that the unit makes, once, to watch(name, block, names). labels(): names of the nodes of the present group, and
-- the anchor, which is what a block computes that says nothing else; nil to leave blocks as they are.
local function watched(unit, watch, labels)
  local plain, known = unit.block, {}
  function unit:block(build, dtype, isa)
    local names, anchor, made
    if labels then names, anchor = labels() end
    local name = plain(self, function(b)
      made = b
      if anchor then b:note(anchor) end
      return build(b)
    end, dtype, isa)
    if not known[name] then
      known[name] = true
      watch(name, made, names)
    end
    return name
  end
end

-- The unit; per group its steps and temporaries. watch: as in watched(); labelled: blocks say what they compute.
local function recipes(groups, r, watch, labelled)
  local unit, code, present = stage.emit.unit(groups.facts.graph, r.isa), {}, nil
  unit.fixed, unit.tuning = groups.fixed, r.tuning and tuning.decode(r.tuning)
  local function labels() return stage.emit.labels(groups.facts.graph, present) end
  if watch then watched(unit, watch, labelled and labels) end
  local writer = stage.reuse.new(unit, groups.facts)
  for n, g in ipairs(groups.groups) do
    present = g
    local steps, temps, signature = writer:group(g)
    code[n] = { steps = steps, temps = temps, signature = signature }
  end
  return unit, code
end

local function object_of(unit)
  local out = native.gc(native.new("es_text"), C.es_text_clear)
  if C.es_jit_compile(unit, out, native.fresh()) ~= 0 then need(native.failure()) end
  return native.string(out.bytes, out.length)
end

local function kernel_of(plan, object, length)
  local code, kernel = native.new("es_code *[1]"), native.new("es_kernel *[1]")
  if C.es_code_load(object, length, code, native.fresh()) ~= 0 then need(native.failure()) end
  local image = native.gc(code[0], C.es_code_release)
  if C.es_kernel_new(plan, image, kernel, native.fresh()) ~= 0 then need(native.failure()) end
  return native.gc(kernel[0], C.es_kernel_release)
end

-- What is known before the graph.
local function settle(r, opts)
  r.mode, r.dtype = opts.mode or "eval", opts.dtype or "f32"
  r.size = opts.size
  r.isa, r.list = opts.isa or native.string(C.es_isa_name(C.es_isa_best())), pass_list(opts.passes)
  r.passes = passes.signature(r.list)
  if not opts.read then return end -- what follows is for a store
  r.source = need(opts.read(r.source))
  local identity = opts.identity(r.source, opts)
  if identity and not opts.tuning then r.c_source = artifact.source(r, identity) end
end

local function build_graph(r, opts)
  local info
  r.graph, info = need((opts.build or blueprint.build)(r.source, { set = opts.set, mode = opts.mode, dtype = opts.dtype }))
  r.name, r.mode, r.dtype, r.hyper = info.name, info.mode, info.dtype, artifact.hyper(info.hyper)
end

local function build_groups(r, graph)
  local choices = r.tuning and tuning.decode(r.tuning) or {}
  r.groups = need(stage.group.build(graph, choices[tuning.PLAN]))
  need(stage.group.verify(r.groups))
  r.groups.fixed = r.mode == "eval" and stage.group.fixed(r.groups) or {}
end

local function rewrite(r, opts)
  local graph
  graph, r.report = need(passes.run(r.graph, r.list, { mode = r.mode, show = opts.show }))
  build_groups(r, graph)
end

local function text_of(choices)
  local text = tuning.encode(choices)
  return text ~= "" and text or nil
end

-- Sets r.tuning, the text of the choices to compile with; nil for the defaults.
local function choose(r, opts)
  local _, why = artifact.choose(r, r.graph:dims():symbols(), r.name, opts.store and artifact.tuning(opts.store, r))
  if why then need(nil, why, "ESHAPE") end
  if opts.tuning then r.tuning = text_of(opts.tuning) end
end

-- Makes a kernel of what the store gave; a record that today's loader refuses counts as absent and is compiled anew.
local function take(r, stored)
  local usable, kernel = pcall(kernel_of, stored.plan, stored.object, stored.length)
  if not usable then return false end
  r.status, r.kernel, r.plan, r.record, r.certificate_text = "CACHED", kernel, stored.plan, stored.record, stored.certificate
  return true
end

-- From the groups to the kernel.
local function generate(r, opts, lap)
  local blocks, listing = {}, opts.listing
  local unit, code = recipes(r.groups, r, listing and function(name, made, names)
    blocks[#blocks + 1] = block_text(name, made, listing, names)
  end, true)
  r.blocks = table.concat(blocks, "\n")
  r.unit, r.choices = unit:text(), unit.choices                                           lap "recipes"
  r.choices[tuning.PLAN] = r.groups.choices
  r.object = object_of(r.unit)                                                            lap "object"
  local made = stage.planner.build { groups = r.groups, source = r.graph, code = code }
  r.status, r.plan, r.naive, r.code = "SUCCESS", made.plan, made.naive, code              lap "plan"
  r.kernel = kernel_of(r.plan, r.object, #r.object)                                       lap "load"
end

-- The same graph with other choices.
local function again(r, choices)
  local first = r.source
  for _, name in ipairs { "name", "mode", "dtype", "isa", "hyper", "graph", "passes" } do r[name] = first[name] end
  r.tuning = text_of(choices)
  build_groups(r, first.groups.facts.graph)
  generate(r, {}, stopwatch(r))
  return r
end

-- The blocks as the recipes build them. Whoever reads them compares the text: another build's unit may hold others.
local function programs(result)
  local r, out = setmetatable({ list = rawget(result, "list") or pass_list() }, { __index = result }), {}
  if not r.groups then rewrite(r, {}) end
  recipes(r.groups, r, function(name, made) out[#out + 1] = { name = name, text = made:text(), lowered = made:lower(name) } end)
  return out
end

local function compile(r, opts)
  local lap, store = stopwatch(r), opts.store
  settle(r, opts)
  local stored = store and r.c_source and not opts.anew and artifact.find(store, r)
  stored = stored and take(r, stored)                                                     lap "index"
  if stored then
    artifact.describe(r)
    return r
  end
  build_graph(r, opts)                                                                    lap "blueprint"
  choose(r, opts)
  r.key = need(artifact.key(r))                                                           lap "key"
  stored = store and artifact.load(store, r)
  stored = stored and take(r, stored)                                                     lap "store"
  if not stored then
    rewrite(r, opts)                                                                      lap "passes"
    generate(r, opts, lap)
  end
  artifact.describe(r)
  if store and stored then
    artifact.note(store, r)                                                               lap "note"
  elseif store then
    need(artifact.save(store, r))                                                         lap "put"
  end
  return r
end

local function early(r, opts)
  settle(r, opts)
  build_graph(r, opts)
  rewrite(r, opts)
  return r
end

local function keyed(r, opts)
  settle(r, opts)
  build_graph(r, opts)
  choose(r, opts)
  r.key = need(artifact.key(r))
  return r
end

-- Parts of a stored kernel are read when they are asked for.
local Result = { __index = artifact.part }

-- Want of memory is no defect wherever it strikes; what is thrown says so in our words or LuaJIT's, and a dimension that
-- could not be made leaves its mark in its table.
local function starved(r, message)
  local graph, groups = rawget(r, "graph"), rawget(r, "groups")
  return message:find "out of memory" or message:find "not enough memory"
    or graph and C.es_dims_starved(graph:dims().ptr) or groups and C.es_dims_starved(groups.facts.D.ptr)
end

-- Runs a pipeline; a failure becomes nil, message, status, a defect in our Lua an EINTERNAL with its traceback.
local function guarded(pipeline, source, opts)
  local r = setmetatable({ source = source }, Result)
  local ok, result = xpcall(pipeline, function(e)
    local failure = type(e) == "table" and e or { message = debug.traceback("compile: " .. tostring(e), 2), status = "EINTERNAL" }
    if failure.status == "EINTERNAL" and starved(r, failure.message) then
      failure = { message = "compile: out of memory", status = "ENOMEM" }
    end
    return failure
  end, r, opts or {})
  if ok then return result end
  return nil, result.message, result.status
end

function M.compile(source, opts) return guarded(compile, source, opts) end
function M.again(result, choices) return guarded(again, result, choices) end
function M.link(plan, code)
  local object = code:sub(1, 4) == "\127ELF" and code or object_of(code)
  return kernel_of(plan, object, #object)
end
function M.key(source, opts) return guarded(keyed, source, opts) end
function M.programs(result)
  local ok, out = pcall(programs, result)
  if ok then return out end
  return {}, type(out) == "table" and out.message or tostring(out)
end
function M.early(source, opts) return guarded(early, source, opts) end
function M.save(result, store, certificate) return artifact.save(store, result, certificate) end

return M
