--- Kernels as Lua objects: signature, parameters, runs. Over es_kernel; made by esper.compile.
--
--   k.name k.key k.status ("SUCCESS" | "CACHED") k.isa k.mode k.dtype k.hyper k.certificate
--   k:signature() -> { inputs=, outputs=, params=, buffers= }, each an array of { name, dtype, shape, init?, count? }
--   k:params(seed) -> params; params[name] is a tensor; params:save(dir); kernel.load_params(k, dir)
--       params:freeze() -> params      promises that the tensors stay as they are from here on: kernels then keep what they make
--       of weights (as C's esper_params_freeze); params:thaw() ends it, and comes before any change; so does a training run
--   k:certify(options) -> certificate    proves it now (esper.certify)
--   k:run({ x = tensor }, { params=, seed=, step=, threads=false, unproved=true }) -> { y = tensor } | nil, message, status
--       a kernel without a passing certificate runs only when told `unproved`
-- Inputs are borrowed during the call; outputs are new tensors. In training mode a run updates the params' buffers.

local artifact = require "esper.artifact"
local dims = require "esper.dims"
local native = require "esper.native"
local tensor = require "esper.tensor"
local C, fresh, failure = native.C, native.fresh, native.failure

local M = {}
local Kernel = {}
local Params = {}
-- Methods, and the parts of a stored kernel (graph, unit, object) that are read when they are asked for.
function Kernel:__index(name)
  local method = Kernel[name]
  if method ~= nil then return method end
  return artifact.part(self, name)
end

local INIT_ARITY = { zeros = 0, ones = 0, const = 1, eye = 0, uniform = 2, normal = 2, kaiming_uniform = 1,
  kaiming_normal = 1, xavier_uniform = 1, xavier_normal = 1 }

--- fields: kernel (es_kernel *, owned through gc), plan, and what a user may ask of it.
function M.wrap(fields)
  fields.plan_dims = fields.plan_dims or dims.wrap(C.es_dims_retain(C.es_plan_dims(fields.plan)))
  return setmetatable(fields, Kernel)
end

-- Values of one role, in signature order: { index=, name=, dtype=, shape = array of dims, v = es_value }.
function Kernel:values(role)
  local list, which = {}, native.role[role]
  for i = 0, C.es_plan_role_count(self.plan, which) - 1 do
    local index = C.es_plan_role_get(self.plan, which, i)
    local v = C.es_plan_value_get(self.plan, index)
    local shape = {}
    for a = 1, v.rank do shape[a] = v.shape[a - 1] end
    list[i + 1] = { index = index, name = native.string(v.name), dtype = native.dtypename[v.dtype], shape = shape, v = v }
  end
  return list
end

local function extents_text(D, shape)
  local out = {}
  for i, d in ipairs(shape) do out[i] = D:value(d) or D:text(d) end
  return out
end

local function init_text(v)
  local name = native.initname[v.init]
  local arity = INIT_ARITY[name]
  if arity == 0 then return name end
  return arity == 1 and ("%s(%.9g)"):format(name, v.f0) or ("%s(%.9g, %.9g)"):format(name, v.f0, v.f1)
end

function Kernel:signature()
  local D, out = self.plan_dims, {}
  for _, role in ipairs { "input", "output", "param", "buffer" } do
    local list = {}
    for i, value in ipairs(self:values(role)) do
      local row = { name = value.name, dtype = value.dtype, shape = extents_text(D, value.shape) }
      if role == "param" or role == "buffer" then
        row.init, row.count = init_text(value.v), 1
        for _, d in ipairs(value.shape) do row.count = row.count * D:value(d) end
      end
      list[i] = row
    end
    out[role .. "s"] = list
  end
  return out
end

function Kernel:param_count()
  local n = 0
  for _, p in ipairs(self:signature().params) do n = n + p.count end
  return n
end

-- ---- parameters ----

-- Tensors by name and nothing else, so that pairs() sees these alone; the plan they belong to is in the metatable.
local function params_of(plan) return setmetatable({}, { __index = Params, plan = plan }) end

-- Params with make(value, role, extents) for every parameter and buffer; nil, message, status after the first failure.
local function each_param(self, make)
  local out = params_of(self.plan)
  for _, role in ipairs { "param", "buffer" } do
    for _, value in ipairs(self:values(role)) do
      local t, why, status = make(value, role, extents_text(self.plan_dims, value.shape))
      if not t then return nil, why, status end
      out[value.name] = t
    end
  end
  return out
end

function Kernel:params(seed)
  return each_param(self, function(value, _, shape)
    local t, v = tensor.new(value.dtype, shape), value.v
    local extents = native.new("int64_t[8]", shape)
    if C.es_init_fill(v.init, v.f0, v.f1, value.name, v.dtype, #shape, extents, seed or 0, t.data, fresh()) ~= 0 then
      return failure()
    end
    return t
  end)
end

-- The tensor when it is what the kernel takes as this parameter; nil, message that names `from`, status.
local function fitting(self, t, value, role, shape, from)
  local got, want = table.concat(t.shape, ", "), table.concat(shape, ", ")
  if t.dtype == value.dtype and got == want then return t end
  return nil, ("%s: %s[%s], but %s '%s' of %s is %s[%s]"):format(from, t.dtype, got, role, value.name, self.name, value.dtype, want),
    t.dtype ~= value.dtype and "EDTYPE" or "ESHAPE"
end

-- The params a caller gave, when every one is there and fits.
local function check_params(self, given)
  if type(given) ~= "table" then return nil, ("params is %s, wanted what k:params() gives"):format(type(given)), "EARG" end
  local params, why, status = each_param(self, function(value, role, shape)
    local t = given[value.name]
    if tensor.is(t) then return fitting(self, t, value, role, shape, "params") end
    return nil, ("params: %s '%s' of %s is missing"):format(role, value.name, self.name), "ENAME"
  end)
  return params and given, why, status
end

function Params:freeze()
  local own = getmetatable(self)
  own.frozen = own.frozen or C.es_frozen_token()
  return self
end

function Params:thaw()
  getmetatable(self).frozen = nil
  return self
end

--- One NAME.npy per parameter and buffer; the directory is made when missing.
function Params:save(directory)
  local plan, out = getmetatable(self).plan, native.new("es_params *[1]")
  if C.es_params_new(plan, 0, out, fresh()) ~= 0 then return failure() end
  local held = native.gc(out[0], C.es_params_free)
  for name, t in pairs(self) do
    local index = C.es_plan_find(plan, native.role.param, name)
    if index < 0 then index = C.es_plan_find(plan, native.role.buffer, name) end
    if index < 0 or C.es_params_bytes(held, index) ~= t.bytes then
      return nil, ("'%s' is no parameter or buffer of this kernel, or has another size"):format(tostring(name)), "ENAME"
    end
    native.copy(C.es_params_data(held, index), t.data, t.bytes)
  end
  if C.es_params_save(held, directory, fresh()) ~= 0 then return failure() end
  return true
end

function M.load_params(kernel, directory)
  return each_param(kernel, function(value, role, shape)
    local path = directory .. "/" .. value.name .. ".npy"
    local t, why, status = tensor.load(path)
    if not t then return nil, why, status end
    return fitting(kernel, t, value, role, shape, path)
  end)
end

-- ---- runs ----

function Kernel:certify(options) return require("esper").certify(self, options) end

--- The values of all inputs, when `given` has a fitting tensor for each and no other; nil, message, status.
function Kernel:check_inputs(given)
  if type(given) ~= "table" then
    return nil, ("inputs are %s, wanted a table of tensors by name"):format(given == nil and "missing" or type(given)), "EARG"
  end
  local values, known = self:values("input"), {}
  for _, value in ipairs(values) do
    known[value.name] = true
    local t = given[value.name]
    if not tensor.is(t) then
      return nil, ("input '%s' is missing; %s takes %s[%s]"):format(value.name, self.name, value.dtype,
        table.concat(extents_text(self.plan_dims, value.shape), ", ")), "ENAME"
    end
    if t.dtype ~= value.dtype then
      return nil, ("input '%s' is %s, %s takes %s"):format(value.name, t.dtype, self.name, value.dtype), "EDTYPE"
    end
    if #t.shape > native.rank_max then return nil, ("input '%s' has rank %d, at most 8"):format(value.name, #t.shape), "ESHAPE" end
  end
  for name in pairs(given) do
    if not known[name] then
      local names = {}
      for i, value in ipairs(values) do names[i] = value.name end
      return nil, ("no input '%s'; %s takes %s"):format(tostring(name), self.name, table.concat(names, ", ")), "ENAME"
    end
  end
  return values
end

-- Symbol values (C array) and dims evaluated, from the inputs' extents.
function Kernel:solve(values, given)
  local ranks = native.new("int32_t[?]", #values + 1)
  local shapes = native.new("int64_t[?]", #values * native.rank_max + 1)
  for i, value in ipairs(values) do
    local t = given[value.name]
    ranks[i - 1] = #t.shape
    for a, e in ipairs(t.shape) do shapes[(i - 1) * native.rank_max + a - 1] = e end
  end
  local symbols = self.plan_dims:symbols()
  local out = native.new("int64_t[?]", #symbols + 1)
  if C.es_kernel_solve(self.kernel, ranks, shapes, out, fresh()) ~= 0 then return failure() end
  local named = {}
  for i, s in ipairs(symbols) do named[s.name] = tonumber(out[i - 1]) end
  local all, why, status = self.plan_dims:eval(named)
  if not all then return nil, why, status end
  return out, all
end

function Kernel:run(given, options)
  options = options or {}
  if type(options) ~= "table" then return nil, ("options are %s, wanted a table"):format(type(options)), "EARG" end
  if not (self.certificate and self.certificate.passed) and not options.unproved then
    return nil, ("kernel %s is not proved: call certify() on it first, or compile with certify = true"):format(self.name), "ECERT"
  end
  local inputs, why, status = self:check_inputs(given)
  if not inputs then return nil, why, status end
  local symbols, all, unsolved = self:solve(inputs, given)
  if not symbols then return nil, all, unsolved end
  local params
  if options.params == nil then params, why, status = self:params(options.seed)
  else params, why, status = check_params(self, options.params) end
  if not params then return nil, why, status end
  local data = native.new("void *[?]", C.es_plan_value_count(self.plan) + 1)
  for _, value in ipairs(inputs) do data[value.index] = given[value.name].data end
  for _, role in ipairs { "param", "buffer" } do
    for _, value in ipairs(self:values(role)) do data[value.index] = params[value.name].data end
  end
  local out = {}
  for _, value in ipairs(self:values("output")) do
    local shape = {}
    for a, d in ipairs(value.shape) do shape[a] = all[d] end
    out[value.name] = tensor.new(value.dtype, shape)
    data[value.index] = out[value.name].data
  end
  local run = native.new("es_run")
  run.symbols, run.data, run.seed, run.step = symbols, data, options.seed or 0, options.step or 0
  run.frozen = (getmetatable(params) or {}).frozen or 0
  if options.threads ~= false then run.pool = self.pool end
  if run.frozen ~= 0 and C.es_plan_role_count(self.plan, native.role.update) > 0 then params:thaw() end
  if C.es_kernel_run(self.kernel, run, fresh()) ~= 0 then return failure() end
  return out, params
end

function Kernel:__tostring()
  local s, lines = self:signature(), { ("kernel %s (%s, %s, %s)"):format(self.name, self.mode, self.dtype, self.isa) }
  for _, role in ipairs { "input", "output", "param", "buffer" } do
    for _, row in ipairs(s[role .. "s"]) do
      lines[#lines + 1] = ("  %-6s %-24s %s[%s]%s"):format(role, row.name, row.dtype, table.concat(row.shape, ", "),
        row.init and "  " .. row.init or "")
    end
  end
  local rounds = self.rounds ~= "" and "; in rounds over " .. self.rounds or ""
  lines[#lines + 1] = ("  memory workspace %s bytes%s"):format(self.workspace, rounds)
  lines[#lines + 1] = "  key    " .. self.key
  local c = self.certificate
  lines[#lines + 1] = "  proved " .. (not c and "not yet" or c.passed and "yes" or "NO: " .. c.failure)
  return table.concat(lines, "\n")
end

return M
