--- Esper for scripts: `local esper = require "esper"`. Over the pipeline (compile.lua), the store (urza.lua), certificates
-- (validate.lua). One session per Lua state: a store, a thread pool, both opened on first use.
--
--   esper.compile(source, { set=, mode=, dtype=, passes=, certify=, size= }) -> kernel | nil, message, status
--       source: catalogue name, path of a .lua file (run in the sandbox) or of a first-generation .json description, or a
--       declaration made with `blueprint` here
--       size = { batch = 1 }: of the runs to come, for the choices tuned for such (tuning.lua); the kernel serves all sizes
--       certify = true proves the kernel unless the store has its certificate; a kernel that fails is refused (ECERT)
--   esper.run(source, { x = tensor }, options) -> { y = tensor }    compile, prove, run
--   esper.certify(kernel, options) -> certificate, problem    anew; a passing one is stored with the kernel; problem: text
--       when the store could not follow
--   esper.tune(source, { set=, mode=, dtype=, size=, budget=, threads= }) -> report     measures what recipes leave open, in the
--       caller's thread (tune.lua); what is faster is kept in the store, where later compiles of any process find it
--   esper.dump(source, stage, options) -> text       esper.catalogue() -> names
--   esper.tensor, esper.randn{2, 3}, esper.load "x.npy", esper.blueprint
--   esper.set_threads(n)                              threads kernels may use; 0 = all cores

local native = require "esper.native"
local tensor = require "esper.tensor"
local C, fresh, failure = native.C, native.fresh, native.failure

local M = { tensor = tensor, randn = tensor.randn, load = tensor.load, version = native.string(C.esper_version()) }

-- What the context (src/bind/context.c) was made with; a plain LuaJIT process has the environment only.
local function options()
  if rawget(_G, "esper_options") then return esper_options() end
  return { store = os.getenv "ESPER_STORE" or "", threads = 0 }
end

local session = {}

--- The thread pool, made on first use; nil when one thread is all there is.
function M.pool()
  if session.pool == nil then
    local threads = session.threads or options().threads
    local pool = native.new("es_pool *[1]")
    local ok = C.es_pool_new(threads, pool, fresh()) == 0 and pool[0] ~= nil
    session.pool = ok and native.gc(pool[0], C.es_pool_release) or false
  end
  return session.pool or nil
end

function M.set_threads(n)
  session.threads, session.pool = n, nil
end

--- The store, opened on first use; nil when there is none. A store that cannot be opened is an error, said once.
function M.store()
  if session.store == nil then
    local path = session.path or options().store
    session.store = false
    if path and path ~= "" then
      local store, why, status = require("esper.urza").open(path)
      if not store then return nil, why, status end
      session.store = store
    end
  end
  return session.store or nil
end

--- Uses the store in this directory from now on; "" for none.
function M.set_store(path)
  session.path, session.store = path, nil
end

-- ---- compiling ----

-- A first-generation description in a file: { "type": ..., "config": ... }.
local function from_json(path, opts)
  local file, why = io.open(path, "rb")
  local text = file and file:read("*a")
  if file then file:close() end
  if not text then return nil, { "blueprint " .. (why or path .. ": cannot be read") }, "EIO" end
  local declaration, errors = require("esper.import").json(text)
  if not declaration then
    for i, e in ipairs(errors) do errors[i] = path .. ": " .. e end
    return nil, errors, "EBLUEPRINT"
  end
  return require("esper.blueprint").build(declaration, opts)
end

-- The options of a call: a table, or left out.
local function options_of(opts)
  if opts ~= nil and type(opts) ~= "table" then error(("options are %s, wanted a table"):format(type(opts)), 3) end
  return opts or {}
end

-- Who builds the graph: a file or catalogue name runs in the sandbox, a declaration made in this state here.
local function pipeline_options(source, opts)
  local out = { set = opts.set, mode = opts.mode or "eval", dtype = opts.dtype or "f32", passes = opts.passes, size = opts.size }
  if type(source) ~= "string" then
    out.build = require("esper.blueprint").build
  elseif source:match("%.json$") then
    out.build = from_json
  else
    local sandbox = require "esper.sandbox"
    out.build, out.read, out.identity = sandbox.build, sandbox.read, sandbox.identity
  end
  return out
end

local function text_of(problem) return type(problem) == "table" and table.concat(problem, "\n") or tostring(problem) end

--- The canonical graph of a source and what is known of it: graph, info | nil, message, status.
function M.graph(source, opts)
  local build = pipeline_options(source, options_of(opts))
  local graph, info, status = build.build(source, build)
  if graph then return graph, info end
  return nil, text_of(info), status or "EBLUEPRINT"
end

--- What the key of a source is made from, by the names `esper store ls` has: for urza's why.
function M.key_fields(source, opts)
  local store, options = M.store(), pipeline_options(source, options_of(opts))
  options.store = store and store.ptr -- the choices tuned here are a part of the key
  local r, problem, status = require("esper.compile").key(source, options)
  if not r then return nil, text_of(problem), status end
  local k, out = r.c_key, { key = r.key, graph = r.graph:hash(), source = r.c_source }
  for _, name in ipairs { "name", "hyper", "mode", "dtype", "target", "passes", "build" } do out[name] = native.string(k[name]) end
  return out
end

function M.compile(source, opts)
  opts = options_of(opts)
  local store, why, status = M.store()
  if not store and why then return nil, why, status end
  local options = pipeline_options(source, opts)
  options.store, options.anew = store and store.ptr, opts.anew
  local made, problem
  made, problem, status = require("esper.compile").compile(source, options)
  if not made then return nil, text_of(problem), status end
  made.pool = M.pool()
  if made.certificate_text then made.certificate = require("esper.validate").decode(made.certificate_text) end
  local kernel = require("esper.kernel").wrap(made)
  if opts.certify and not (kernel.certificate and kernel.certificate.passed) then
    local from = C.es_clock_ms()
    local _, problem = M.certify(kernel)
    kernel.ms.certify = C.es_clock_ms() - from
    if problem then return nil, kernel.name .. ": " .. problem, "EIO" end
  end
  if opts.certify and not kernel.certificate.passed then
    return nil, ("%s: kernel refused, its certificate fails: %s"):format(kernel.name, kernel.certificate.failure), "ECERT"
  end
  return kernel
end

--- Proves a kernel anew; opts.performance = true: its speed too (performance.lua). A passing certificate goes into the store; a
-- failing one takes the record out of it.
function M.certify(kernel, opts)
  opts = options_of(opts)
  if opts.shapes ~= nil and type(opts.shapes) ~= "number" then error("shapes is no number", 2) end
  opts.pool = kernel.pool
  local validate = require "esper.validate"
  kernel.certificate = validate.certify(kernel, opts)
  if opts.performance and kernel.certificate.passed then require("esper.performance").judge(kernel, kernel.certificate) end
  local store = M.store()
  if store and kernel.certificate.passed then
    local ok, why = require("esper.compile").save(kernel, store.ptr, validate.encode(kernel.certificate))
    if not ok then return kernel.certificate, "the certificate cannot be stored: " .. why end
  elseif store then
    local ok, why, status = store:remove(kernel.key)
    if not ok and status ~= "ENOTFOUND" then return kernel.certificate, "the refused kernel cannot be taken out of the store: " .. why end
  end
  return kernel.certificate
end

function M.run(source, inputs, opts)
  opts = options_of(opts)
  local kernel, why, status = M.compile(source, setmetatable({ certify = true }, { __index = opts }))
  if not kernel then return nil, why, status end
  return kernel:run(inputs, opts)
end

-- What tuning found goes into the store: true when there is something; nil, message, status.
local function keep_tuning(store, report)
  local artifact, tuning, case = require "esper.artifact", require "esper.tuning", report.case
  local before = artifact.tuning(store.ptr, report.source) or ""
  local after = tuning.with(before, report.sizes, tuning.encode(report.tuning))
  if before == after then return next(report.tuning) ~= nil end
  local ok, why, status = artifact.save_tuning(store.ptr, report.source, after)
  if not ok then return nil, "the choices cannot be stored: " .. why, status end
  ok, why, status = M.compile(case.source, { anew = true, set = case.set, mode = case.mode, dtype = case.dtype, size = case.size })
  if not ok then return nil, why, status end
  return next(report.tuning) ~= nil
end

function M.tune(source, opts)
  local store, why, status = M.store()
  if not store and why then return nil, why, status end
  local function known(r, sizes)
    local tuning = require "esper.tuning"
    local record = store and require("esper.artifact").tuning(store.ptr, r)
    local text = record and tuning.nearest(record, sizes)
    return text and tuning.decode(text)
  end
  opts = options_of(opts)
  local pool, report = opts.pool, nil
  if (opts.threads or 1) ~= 1 then
    pool, why = require("esper.bench").pool(opts.threads)
    if not pool then return nil, why end
  end
  report, why, status = require("esper.tune").run(source, setmetatable({ known = known, pool = pool }, { __index = opts }))
  if not report then return nil, text_of(why), status end
  report.kept = false
  if not store then return report end
  report.kept, why, status = keep_tuning(store, report)
  if report.kept == nil then return nil, why, status end
  return report
end

function M.dump(source, stage, opts)
  local text, problem, status = require("esper.dump").text(source, stage, pipeline_options(source, options_of(opts)))
  if text then return text end
  return nil, text_of(problem), status
end

function M.catalogue() return require("esper.blueprint").catalogue() end
function M.blueprint(...) return require("esper.blueprint").define(...) end

return M
