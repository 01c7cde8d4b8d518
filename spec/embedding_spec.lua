-- The host of docs/embedding.md and a checking one (support/embed_check.c), built against what `make install` installs:
-- shared and static, as C and as C++.
local process = require "support.process"

local STRICT = "-Wall -Wextra -Werror -Wno-missing-field-initializers -g"
local COMPILERS = { C = "gcc -std=c11 -D_GNU_SOURCE", ["C++"] = "g++ -std=c++17 -x c++" }

describe("embedding #process", function()
  local root = process.directory()
  local prefix = root .. "/usr"
  local config = ("PKG_CONFIG_PATH=%s/lib/pkgconfig pkg-config"):format(prefix)
  local how = {
    shared = ("$(%s --cflags --libs esper) -Wl,-rpath,%s/lib"):format(config, prefix),
    static = ("$(%s --static --cflags --libs esper | sed 's/-lesper/-l:libesper.a/')"):format(config),
  }

  setup(function()
    process.must(("make -s BUILD=%s PREFIX=%s install"):format(process.build, prefix))
    local page = process.read "docs/embedding.md"
    process.write(root .. "/host.c", assert(page:match "```c\n(.-)```"))
  end)
  teardown(function() process.remove(root) end)

  it("shows a host of under 40 lines that uses esper.h and nothing of Esper besides", function()
    local text, lines = process.read(root .. "/host.c"), 0
    for _ in text:gmatch "\n" do lines = lines + 1 end
    assert.is_true(lines < 40, lines)
    for header in text:gmatch "#include%s*(%S+)" do assert.is_truthy(header == "<esper.h>" or header == "<stdio.h>", header) end
  end)

  for language, compiler in pairs(COMPILERS) do
    for kind, flags in pairs(how) do
      it(("the host of the page builds and runs: %s, %s"):format(language, kind), function()
        local program = root .. "/host"
        process.must(("%s %s %s/host.c -x none -o %s %s"):format(compiler, STRICT, root, program, flags))
        local want = process.read("docs/embedding.md"):match "It prints\n\n```\n(.-)```"
        assert.equal(want, process.must(("ESPER_STORE=%s/store %s"):format(root, program)))
        local linked = process.must("ldd " .. program)
        assert.equal(kind == "shared", linked:find("libesper.so", 1, true) ~= nil)
      end)

      it(("the checking host: %s, %s"):format(language, kind), function()
        local program = root .. "/check"
        process.must(("%s %s spec/support/embed_check.c -x none -o %s %s -lpthread"):format(compiler, STRICT, program, flags))
        local output, code = process.run(("%s %s/store 2>%s/stderr"):format(program, root, root))
        local checks = 0
        for line in output:gmatch "[^\n]+" do -- anything else would be output of the library
          assert.is_truthy(line:match "^ok ", line)
          checks = checks + 1
        end
        assert.equal(0, code)
        assert.is_true(checks >= 60, checks)
        assert.equal("", process.read(root .. "/stderr"))
      end)
    end
  end

  it("exports esper_* and luaopen_esper_native, and nothing else", function()
    local names = process.must(("nm -D --defined-only %s/lib/libesper.so"):format(prefix))
    local count = 0
    for name in names:gmatch "%S+ %a (%S+)" do
      assert.is_truthy(name:match "^esper_" or name == "luaopen_esper_native", name)
      count = count + 1
    end
    assert.is_true(count >= 15, count)
  end)

  it("defines in the static library only names with its prefixes", function()
    for name in process.must(("nm -g --defined-only %s/lib/libesper.a 2>/dev/null"):format(prefix)):gmatch "%x+ %u (%S+)" do
      local prefix_of_ours = name:match "^es_" or name:match "^ES_" or name:match "^esper_" or name:match "^tcc_"
      assert.is_truthy(prefix_of_ours or name == "luaopen_esper_native", name)
    end
  end)

  it("exports every function that esper.h declares", function()
    local names = process.must(("nm -D --defined-only %s/lib/libesper.so"):format(prefix))
    for name in process.read(prefix .. "/include/esper.h"):gmatch "\nESPER_API [^(]-(esper_[%w_]+)%(" do
      assert.is_truthy(names:find(" " .. name .. "\n", 1, true), name)
    end
  end)
end)
