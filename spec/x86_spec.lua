-- Every row of x86.def over a matrix of operands: what es_x86_encode gives against what GNU as gives for the text of
-- es_x86_print, byte for byte; and that impossible instructions are refused. #process
local bit = require "bit"
local native = require "esper.native"
local process = require "support.process"
local C = native.C

local NONE, POOL, SLOT = -1, -2, 16
local BASES = { 0, 3, 4, 5, 7, 8, 11, 12, 13, 15, NONE, POOL }
local INDEXES = { NONE, 0, 5, 9, 12, 13, NONE, 15 }
local SCALES = { 1, 2, 4, 8 }
local DISPLACEMENTS = { 0, 1, -1, 2, 4, 8, 16, 32, 64, 96, 100, 127, 128, -128, -129, 252, 256, 508, 512, 1016, 1024, 2032, -2048,
  4064, 4096, 8128, 8192, -8192, -8256, 1000003, 2147483647, -2147483648 }
local IMM8 = { 0, 1, 4, 8, 9, 17, 29, 78, 136, 216, 255 }
local IMM32 = { 0, 1, -1, 5, 127, 128, -128, -129, 255, 4096, 2147483647, -2147483648 }
local MEMORY = "[VXERGMAB]"

-- A number that walks through a list: every call the next one, so that lists meet in ever new combinations.
local function walker(list)
  local at = 0
  return function()
    at = at % #list + 1
    return list[at]
  end
end
local next_index, next_scale, next_disp = walker(INDEXES), walker(SCALES), walker(DISPLACEMENTS)
local next_imm8, next_imm32, next_mask = walker(IMM8), walker(IMM32), walker { 0, 1, 0, 5, 7, 2 }

local list, row_of = {}, {} -- instructions, and names of their rows

local function rows()
  local op = -1
  return function()
    op = op + 1
    local row = C.es_x86_row_of(op)
    if row ~= nil then return op, row end
  end
end

local function field(row, name) return native.string(row[name]) end

local function new(op, bytes, evex)
  local ins = native.new "es_x86_ins"
  ins.op, ins.bytes, ins.evex, ins.a, ins.b, ins.c = op, bytes, evex, -1, -1, -1
  ins.mem.base, ins.mem.index, ins.mem.scale = 0, NONE, 1
  return ins
end

local function keep(ins, row)
  list[#list + 1], row_of[#list + 1] = ins, field(row, "name")
end

local function copy(ins)
  local other = native.new "es_x86_ins"
  native.copy(other, ins, native.sizeof "es_x86_ins")
  return other
end

-- ---- operands ----

local function registers(class, evex)
  if class:match "k" then return { 0, 1, 6, 7 } end
  if class:match "[eErRgG]" then return { 0, 4, 5, 11, 13, 15 } end
  return evex and { 2, 13, 18, 31 } or { 1, 6, 9, 14 }
end

-- a, b or c: by the legend of x86.def.
local function slot_of(place, i)
  if i == 1 then return "a" end
  return place:sub(i, i) == "v" and "b" or "c"
end

local function fill_immediate(ins, row)
  local kind = string.char(row.immediate)
  if kind == "s" then ins.k = next_imm8() % (8 * ins.bytes)
  elseif kind == "q" then ins.k = next_imm32() * 4294967297LL
  else ins.k = next_imm32() end
  ins.imm = next_imm8()
  if field(row, "operands"):match "w" then ins.imm = ins.imm % 16 end
end

local function fill_mask(ins, row)
  local mask = string.char(row.mask)
  if not ins.evex or mask == "-" then return end
  ins.mask = next_mask()
  local stores = ins.mem_used and field(row, "place"):sub(1, 1) == "m"
  ins.zero = mask == "z" and ins.mask > 0 and ins.mask % 2 == 1 and not stores
end

-- All combinations of registers in the places of a row; `memory`: modrm.rm is left out.
local function each_registers(row, ins, memory, visit)
  local operands, place = field(row, "operands"), field(row, "place")
  local function assign(i)
    if i > #place then return visit(ins) end
    local class = operands:sub(i, i)
    if memory and place:sub(i, i) == "m" then return assign(i + 1) end
    local numbers = registers(class, ins.evex)
    for n, r in ipairs(numbers) do
      if not memory or n == 1 or n == #numbers then
        ins[slot_of(place, i)] = r
        assign(i + 1)
      end
    end
  end
  assign(1)
end

local function add_memory(row, ins, broadcast)
  ins.mem_used = true
  each_registers(row, ins, true, function(one)
    for _, base in ipairs(BASES) do
      for _ = 1, 3 do
        local ins2 = copy(one)
        ins2.broadcast = broadcast
        ins2.mem.base, ins2.mem.index, ins2.mem.scale, ins2.mem.disp = base, next_index(), next_scale(), next_disp()
        if base == POOL then ins2.mem.index = NONE end
        if base == NONE and ins2.mem.index == NONE then ins2.mem.index = 10 end
        fill_immediate(ins2, row)
        fill_mask(ins2, row)
        keep(ins2, row)
      end
    end
    for _, disp in ipairs(DISPLACEMENTS) do
      local ins2 = copy(one)
      ins2.broadcast, ins2.mem.base, ins2.mem.disp = broadcast, 2, disp
      fill_immediate(ins2, row)
      fill_mask(ins2, row)
      keep(ins2, row)
    end
  end)
end

local function add_registers(row, ins)
  each_registers(row, ins, false, function(one)
    local ins2 = copy(one)
    fill_immediate(ins2, row)
    fill_mask(ins2, row)
    keep(ins2, row)
  end)
end

local function add(row, op, bytes, evex)
  local operands, place = field(row, "operands"), field(row, "place")
  local at = place:find("m", 1, true)
  local rm = at and operands:sub(at, at) or ""
  if not rm:match "[MA]" then add_registers(row, new(op, bytes, evex)) end
  if rm:match(MEMORY) and not (rm == "B" and not evex) then
    add_memory(row, new(op, bytes, evex), false)
    if evex and string.char(row.tuple) == "F" then add_memory(row, new(op, bytes, evex), true) end
  end
end

local function add_all()
  for op, row in rows() do
    if row.general then
      for _, bytes in ipairs { 4, 8 } do
        if row.widths == 0 and bytes == 8 or bit.band(row.widths, bytes) ~= 0 then add(row, op, bytes, false) end
      end
    else
      for _, bytes in ipairs { 16, 32, 64 } do
        local fits = row.widths > 1 and bit.band(row.widths, bytes) ~= 0 or row.widths <= 1 and bytes == 16
        if fits and bytes < 64 and #field(row, "vex") > 0 then add(row, op, bytes, false) end
        if fits and #field(row, "evex") > 0 then add(row, op, bytes, true) end
      end
    end
  end
end

-- ---- the other side ----

local out, pool_at = native.new "uint8_t[16]", native.new "int32_t[1]"

local function hex(text) return (text:gsub(".", function(c) return ("%02x "):format(c:byte()) end)) end

-- Text of an instruction that means one encoding only.
local function text_of(ins)
  return (ins.evex and "{evex} " or "") .. native.text(C.es_x86_print, ins)
end

-- One slot of 16 bytes per instruction, so that a wrong one does not hide those behind it.
local function assemble(lines)
  local dir = process.directory()
  process.write(dir .. "/in.s", ".intel_syntax noprefix\n.set pool, 0\n" .. table.concat(lines, "; .p2align 4, 0xcc\n") .. "\n")
  local command = "cd %s && as --64 -o out.o in.s && objcopy -O binary -j .text out.o out.bin"
  local output, code = process.run(command:format(dir))
  if code ~= 0 then
    local shown = output:gsub("in.s:(%d+):", function(n) return "(" .. (lines[n - 2] or "?") .. ")" end)
    error(shown:sub(1, 4000))
  end
  local bytes = process.read(dir .. "/out.bin")
  process.remove(dir)
  return bytes
end

-- The encoding of ins as text, "" when it is refused; checks what is said of the pool.
local function encode(ins)
  local length = C.es_x86_encode(ins, out, pool_at)
  local at = pool_at[0]
  local pool = length > 0 and ins.mem_used and ins.mem.base == POOL
  if pool and not (at > 0 and at + 4 <= length and native.cast("int32_t *", out + at)[0] == ins.mem.disp) or not pool and at ~= -1
    or length < 0 or length > 15 then
    error(("%s: length %d, the pool at %d"):format(text_of(ins), length, at))
  end
  return native.string(native.cast("char *", out), length)
end

-- Those of the list that are encoded otherwise than as does it.
local function differences()
  local lines, mine, wrong = {}, {}, {}
  for i, ins in ipairs(list) do
    lines[i] = text_of(ins)
    mine[i] = encode(ins)
  end
  local theirs = assemble(lines)
  for i in ipairs(list) do
    local slot = theirs:sub((i - 1) * SLOT + 1, i * SLOT)
    local padded = i == #list and mine[i] or mine[i] .. ("\204"):rep(SLOT - #mine[i])
    if slot ~= padded then wrong[#wrong + 1] = ("%s\n  is   %s\n  want %s"):format(lines[i], hex(mine[i]), hex(slot)) end
  end
  return { unpack(wrong, 1, math.min(#wrong, 12)) }
end

describe("x86 encoder #process", function()
  before_each(function() list, row_of = {}, {} end)

  it("agrees with as on every row over all kinds of operands", function()
    add_all()
    assert.same({}, differences())
    local combos = {}
    for _, name in ipairs(row_of) do combos[name] = (combos[name] or 0) + 1 end
    for _, row in rows() do assert.is_true((combos[field(row, "name")] or 0) > 0, field(row, "name")) end
    assert.is_true(#list > 135000, #list .. " combinations")
  end)

  it("encodes nothing that as would refuse, whatever it is given", function()
    local random = math.random
    math.randomseed(tonumber(os.getenv "ESPER_SPEC_SEED") or 1)
    for op, row in rows() do
      for _ = 1, 400 do
        local ins = new(op, ({ 4, 8, 16, 32, 64, 16, 32, 64 })[random(8)], random(2) == 1)
        if row.general then ins.bytes, ins.evex = ({ 4, 8, 8, 16 })[random(4)], false end
        ins.a, ins.b, ins.c = random(-1, 33), random(-1, 33), random(-1, 33)
        if random(3) > 1 then ins.a, ins.b, ins.c = random(0, 8), random(0, 8), random(0, 8) end
        ins.mask, ins.zero, ins.broadcast = math.max(0, random(-6, 9)), random(4) == 1, random(4) == 1
        ins.imm, ins.k = random(0, 255), random(3) == 1 and random(0, 70) or random(-2 ^ 31, 2 ^ 31 - 1)
        ins.mem_used = random(2) == 1
        ins.mem.base, ins.mem.index, ins.mem.scale = random(-3, 16), math.max(-2, random(-20, 33)), 2 ^ random(0, 3) + (random(20) == 1 and 1 or 0)
        ins.mem.disp = random(-300, 300)
        native.text(C.es_x86_print, ins)
        if #encode(ins) > 0 then keep(ins, row) end
      end
    end
    assert.is_true(#list > 1000, #list .. " of them can be encoded")
    assert.same({}, differences())
  end)

  it("names features for exactly the forms there are, and none beyond those of the two instruction sets", function()
    local vex, evex = { ["-"] = true, avx = true, avx2 = true, fma = true, f = true }, { ["-"] = true, f = true, dq = true }
    for _, row in rows() do
      if not row.general then
        assert.is_true(vex[field(row, "vex_needs")] and evex[field(row, "evex_needs")], field(row, "name"))
        assert.equal(field(row, "vex") == "", field(row, "vex_needs") == "-", field(row, "name"))
        assert.equal(field(row, "evex") == "", field(row, "evex_needs") == "-", field(row, "name"))
      end
    end
  end)

  it("refuses what does not exist", function()
    local numbers, count = {}, 0
    for op, row in rows() do numbers[field(row, "name")], count = op, op + 1 end
    local function refused(row, fields, memory)
      local ins = new(numbers[row], 32, false)
      ins.a, ins.b, ins.c = 1, 2, 3
      if memory then ins.mem_used = true end
      for name, value in pairs(fields) do ins[name] = value end
      for name, value in pairs(memory or {}) do ins.mem[name] = value end
      assert.equal("", encode(ins), row .. ": " .. text_of(ins))
    end
    local function accepted(row, fields, memory)
      assert.is_false((pcall(refused, row, fields, memory)), row)
    end
    accepted("addps", {})
    for _, letter in ipairs { "a", "b", "c" } do
      refused("addps", { [letter] = 16 })
      refused("addps", { [letter] = -1 })
      refused("addps", { [letter] = 32, evex = true })
      accepted("addps", { [letter] = 31, evex = true })
    end
    refused("addps", { bytes = 64 })
    refused("addps", { bytes = 48, evex = true })
    refused("addps", { bytes = 0 })
    refused("addps", { mask = 1 })
    refused("addps", { mask = 8, evex = true })
    refused("addps", { zero = true, evex = true })
    refused("addps", { broadcast = true, evex = true })
    refused("addps", { broadcast = true }, { base = 1 })
    refused("addps", { c = 3 }, { base = 16 })
    refused("addps", {}, { base = NONE })
    refused("addps", {}, { base = -3 })
    refused("addps", {}, { base = 1, index = 4 })
    refused("addps", {}, { base = 1, index = 2, scale = 3 })
    refused("addps", {}, { base = POOL, index = 2 })
    refused("movups_store", {})
    refused("movups_store", { evex = true, mask = 1, zero = true }, { base = 1 })
    refused("movups_load", { evex = true, broadcast = true }, { base = 1 })
    refused("kcmpps", { evex = true, a = 8 })
    refused("kcmpps", {})
    refused("kcmpps", { evex = true, mask = 1, zero = true })
    refused("cmpps", { evex = true })
    refused("broadcastsd", { bytes = 16 })
    refused("perm2f128", { bytes = 16 })
    refused("pslld", {}, { base = 1 })
    refused("movmskps", {}, { base = 1 })
    refused("blendvps", { imm = 16 })
    refused("add_i", { bytes = 8, k = 2147483648LL })
    refused("add_rr", { bytes = 16 })
    refused("add_rr", { bytes = 8 }, { base = 1 })
    refused("sar_i", { bytes = 4, k = 32 })
    refused("sar_i", { bytes = 8, k = -1 })
    refused("mov_ri64", { bytes = 4 })
    refused("push", { a = 16 })
    for _, op in ipairs { -1, count } do
      local ins = new(op, 32, false)
      assert.equal("", encode(ins))
      assert.equal("?", native.text(C.es_x86_print, ins))
    end
  end)
end)
