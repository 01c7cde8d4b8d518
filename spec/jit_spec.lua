-- From C text to sealed memory: what libtcc makes is repeatable, what the loader refuses, and that no page is ever
-- writable and executable. Damaged objects in bulk: spec/stress/loader_fuzz.c.
local compile = require "esper.compile"
local kernel = require "esper.kernel"
local maps = require "support.maps"
local native = require "esper.native"
local process = require "support.process"
local unit = require "support.unit"
local validate = require "esper.validate"

local UNIT = [[
void *memcpy(void *, const void *, unsigned long); double sqrt(double);
static const double table[] = { 2.5, 3.5 };
static double scaled(double x) { return sqrt(x) * table[1]; }
void run(double *y, const double *x, long n) { for (long i = 0; i < n; i++) y[i] = scaled(x[i]); }
void copy(void *y, const void *x) { memcpy(y, x, 16); }
]]

local function refused(text)
  local code, message, status = unit.load(assert(unit.compile(text)))
  assert.is_nil(code)
  assert.equal("ECORRUPT", status)
  assert.is_truthy(message:match("^object code: "), message)
  return message
end

describe("libtcc", function()
  it("makes byte-equal objects, whatever was compiled in between", function()
    local first = assert(unit.compile(UNIT))
    assert.is_nil(unit.compile("int f( {"))
    assert(unit.compile("int other(void) { return 1; }"))
    assert.equal(first, assert(unit.compile(UNIT)))
  end)

  it("makes byte-equal objects in another process #process", function()
    local directory = process.directory()
    process.write(directory .. "/unit.c", UNIT)
    process.write(directory .. "/other.lua", ([[
      package.path, package.cpath = %q, %q
      local unit = require "support.unit"
      local file = io.open("%s/unit.c"); local text = file:read "*a"; file:close()
      file = io.open("%s/unit.o", "wb"); file:write(assert(unit.compile(text))); file:close()]])
      :format(package.path, package.cpath, directory, directory))
    process.must("luajit " .. directory .. "/other.lua")
    local other = process.read(directory .. "/unit.o")
    process.remove(directory)
    assert.equal(assert(unit.compile(UNIT)), other)
  end)

  it("makes byte-equal objects of whole blueprints", function()
    local first = assert(compile.compile("cnn/norm", { mode = "train" }))
    collectgarbage()
    local second = assert(compile.compile("cnn/norm", { mode = "train" }))
    assert.equal(first.key, second.key)
    assert.is_true(#first.object > 500)
    assert.equal(first.object, second.object)
  end)

  it("names the line of an error", function()
    local object, message, status = unit.compile("int f(void)\n{\n  return missing;\n}\n")
    assert.is_nil(object)
    assert.equal("ECOMPILE", status)
    assert.is_truthy(message:match("<string>:3: error: .*missing"), message)
  end)

  it("finds no header", function()
    for _, header in ipairs { "<stdio.h>", "<stddef.h>", '"esper.h"' } do
      local object, message, status = unit.compile("#include " .. header .. "\nint f(void) { return 1; }\n")
      assert.is_nil(object)
      assert.equal("ECOMPILE", status)
      assert.is_truthy(message:match("include file .* not found"), message)
    end
  end)

  it("takes a warning as an error", function()
    local object, _, status = unit.compile "void f(void) { g(); }"
    assert.is_nil(object)
    assert.equal("ECOMPILE", status)
  end)
end)

describe("loader", function()
  it("runs functions, their constants and the functions they may call", function()
    local code = unit.build(UNIT)
    local x, y = native.new("double[2]", 4, 9), native.new "double[2]"
    code:get("run", "void (*)(double *, const double *, long)")(y, x, 2)
    assert.same({ 7, 10.5 }, { y[0], y[1] })
    code:get("copy", "void (*)(void *, const void *)")(y, x)
    assert.same({ 4, 9 }, { y[0], y[1] })
    assert.is_nil(code:get("scaled", "void *"))
    assert.is_nil(code:get("missing", "void *"))
  end)

  it("converts unsigned 64-bit numbers", function()
    local code = unit.build "double f(unsigned long n) { return n; }"
    assert.equal(2 ^ 64, code:get("f", "double (*)(unsigned long)")(native.cast("unsigned long", -1LL)))
  end)

  it("refuses functions that are not on its list, by name", function()
    assert.is_truthy(refused("void puts(const char *); void f(const char *s) { puts(s); }"):find('"puts"', 1, true))
    refused "double sin(double); double f(double x) { return sin(x); }"
    refused "void f(void) { void abort(void); abort(); }"
  end)

  it("refuses variables and stored addresses", function()
    refused "static int count; int f(void) { return ++count; }"
    refused "int global; int f(void) { return global; }"
    refused "static const int c = 3; const int *const p = &c; int f(void) { return *p; }"
    refused "int f(void); int (*const table[])(void) = { f }; int f(void) { return 1; }"
  end)

  it("refuses units without code", function() refused "" end)

  it("refuses every truncation", function()
    local object = assert(unit.compile(UNIT))
    for length = 0, #object - 1, 7 do
      local code, _, status = unit.load(object:sub(1, length))
      assert.is_nil(code, length)
      assert.equal("ECORRUPT", status)
    end
    assert(unit.load(object))
  end)

  it("refuses a flipped bit in every header byte it depends on", function()
    local object = assert(unit.compile(UNIT))
    local function with(at, mask)
      local byte = object:byte(at + 1)
      return object:sub(1, at) .. string.char(bit.bxor(byte, mask)) .. object:sub(at + 2)
    end
    -- e_ident up to EI_VERSION, e_type, e_machine, e_shoff, e_shentsize, e_shnum
    local places = { 0, 1, 2, 3, 4, 5, 6, 16, 17, 18, 19, 40, 41, 42, 43, 44, 45, 46, 47, 58, 59, 60, 61 }
    for _, at in ipairs(places) do
      for _, mask in ipairs { 0x80, 0xff } do
        local code, message, status = unit.load(with(at, mask))
        assert.is_nil(code, "byte " .. at)
        assert.equal("ECORRUPT", status)
        assert.is_true(#message > 0)
      end
    end
  end)
end)

describe("executable memory", function()
  -- Reads the maps of this process from another one, as fast as it can, while action runs again and again until SCANS
  -- readings are done, however fast either side is.
  local SCANS = 10
  local function watched(action)
    local self = io.open "/proc/self/stat"
    local pid = self:read "*n"
    self:close()
    local stop, progress = os.tmpname(), os.tmpname()
    local watcher = io.popen(([[ while [ -e %s ]; do while read -r _ rights rest; do
      case $rights in *w*x*) echo "BAD $rights $rest";; esac; done < /proc/%d/maps; echo >> %s; done]]):format(stop, pid, progress))
    local function scans()
      local n = 0
      for _ in io.lines(progress) do n = n + 1 end
      return n
    end
    repeat action() until scans() >= SCANS
    os.remove(stop)
    local seen = watcher:read "*a"
    watcher:close()
    os.remove(progress)
    return seen
  end

  it("is never writable while blueprints are compiled, certified and run #process", function()
    local seen = watched(function()
      for _, name in ipairs { "cnn/norm", "transformer/lora" } do
        local made = kernel.wrap(assert(compile.compile(name, { mode = "train" })))
        assert.is_true(validate.certify(made, { shapes = 2 }).passed)
        assert.same({}, (maps.violations()))
      end
    end)
    assert.equal("", seen)
  end)

  it("appears in the maps as readable and executable, and cannot be made writable", function()
    local code = unit.build(UNIT)
    local found
    for line in io.lines "/proc/self/maps" do
      if line:find("esper-code", 1, true) then
        found = (found or 0) + 1
        assert.is_truthy(line:match "^%x+%-%x+ r%-x[sp] ", line)
      end
    end
    assert.is_true(found ~= nil and code.bytes > 0)
  end)

  it("is given back when the code is released", function()
    local function count()
      local n = 0
      for line in io.lines "/proc/self/maps" do
        if line:find("esper-code", 1, true) then n = n + 1 end
      end
      return n
    end
    collectgarbage()
    collectgarbage()
    local before, list = count(), {}
    for i = 1, 5 do list[i] = unit.build(UNIT) end
    assert.equal(before + 5, count())
    list = nil
    collectgarbage()
    collectgarbage()
    assert.equal(before, count())
  end)

  it("would be refused and noted, whoever asked for it and when", function()
    local tried, noted = require("support.watch").try()
    if tried then assert.same({ 4, 4 }, { tried, noted }) end -- without seccomp there are the scans
  end)

  it("would be seen by the scan", function()
    local list, lines = maps.violations()
    assert.same({}, list)
    assert.is_true(lines > 20)
    assert.is_true(maps.violates "7fd3829e2000-7fd3829e3000 rwxp 00000000 00:00 0")
    assert.is_false(maps.violates "7fd3829e2000-7fd3829e3000 r-xp 00000000 00:00 0 /lib/wx.so")
  end)
end)
