--- Builds blueprints by trust: Esper's own in this state, files in the sandbox. Between the pipeline and blueprint.lua.
--
--   sandbox.read(name or path) -> source | nil, errors, status name      its text, read once: what is asked of the store and
--        what is built must be the same bytes
--   sandbox.build(source, name or path; opts) -> graph, info | nil, errors, status name      as blueprint.build;
--        opts.trusted = true runs a file in this state
--   sandbox.identity(source, opts) -> string | nil      equal strings give equal graphs; nil: nothing of the kind is promised
--   sandbox.new{ memory =, instructions =, milliseconds = } -> box, box:build(text, chunk, opts)   with limits of its own

local blueprint = require "esper.blueprint"
local confined = require "esper.confined"
local graph = require "esper.graph"
local native = require "esper.native"
local pack = require "esper.pack"
local C = native.C

local M = {}
local Box = {}
Box.__index = Box

--- Limits left out take the defaults of src/bind/sandbox.h.
function M.new(limits)
  limits = limits or {}
  local pointer = C.es_sandbox_new(native.dir, limits.memory or 0, limits.instructions or 0, limits.milliseconds or 0,
                                   native.fresh())
  if pointer == nil then return native.failure() end
  local info = native.gc(native.new("es_text"), C.es_text_clear)
  return setmetatable({ ptr = native.gc(pointer, C.es_sandbox_free), info = info }, Box)
end

local function lines(text)
  local list = {}
  for line in string.gmatch(text, "[^\n]+") do list[#list + 1] = line end
  return list
end

local CROSSING = { "set", "mode", "dtype" } -- the options blueprint.build knows

local function crossing(opts)
  local out = {}
  for _, key in ipairs(CROSSING) do out[key] = opts and opts[key] or nil end
  return pcall(pack.pack, out)
end

function Box:build(text, chunk, opts)
  local ok, options = crossing(opts)
  if not ok then return nil, { "options: " .. options }, "EARG" end
  local pointer = C.es_sandbox_build(self.ptr, text, #text, chunk, options, #options, self.info, native.fresh())
  local info = self.info.length > 0 and native.string(self.info.bytes, self.info.length) or ""
  if pointer ~= nil then return graph.wrap(pointer), pack.unpack(info) end
  local _, message, status = native.failure()
  return nil, lines((status == "EBLUEPRINT" or status == "EATTR") and info or message), status
end

local shared -- one box for all files of this state

function M.read(source)
  local text, chunk, origin = blueprint.find(source)
  if not text then return nil, { chunk }, origin end
  return { text = text, chunk = chunk, origin = origin }
end

-- A blueprint sees nothing but its text, the options and the name its errors are reported under (confined.lua).
function M.identity(source, opts)
  if opts and opts.trusted then return nil end
  local ok, options = crossing(opts)
  return ok and pack.pack { source.text, source.chunk, options } or nil
end

-- In this state. Esper's own blueprints see no more than a file does.
local function build_here(source, opts, env)
  local declaration, errors = blueprint.read(source.text, source.chunk, env)
  if not declaration then return nil, errors, "EBLUEPRINT" end
  return blueprint.build(declaration, opts)
end

function M.build(source, opts)
  local errors, status = nil, nil
  if type(source) ~= "table" or not source.chunk then source, errors, status = M.read(source) end
  if not source then return nil, errors, status end
  local trusted = opts and opts.trusted
  if trusted or source.origin == "catalogue" then return build_here(source, opts, not trusted and confined.environment() or nil) end
  if not shared then
    local box, message, code = M.new()
    if not box then return nil, { message }, code end
    shared = box
  end
  return shared:build(source.text, source.chunk, opts)
end

return M
