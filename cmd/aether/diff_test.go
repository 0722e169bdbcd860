package main

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/aethervm/aether/internal/runtime"
	"github.com/aethervm/aether/internal/server/rest"
	"github.com/aethervm/aether/sandbox"
)

// Names and contents are a sandbox's own: none of them steers a terminal, and none is taken for another one.
func TestDiffOfHostileNames(t *testing.T) {
	seen := map[string]string{}
	for _, name := range []string{
		"/plain", "/with space", "/ünïcode☃", "/two  spaces", "/two   spaces", "/end ", "/\x1b[2J", "/\n", "/\\n", `/"`, "/\u202e", "/\u200b", "/\ufffd",
		"/\xff", "/\x9b31m", "/\u009b31m", "/\r", "/\t", "/\x7f", "", "/\u00a0",
	} {
		shown := quoted(name)
		if other, ok := seen[oneLine(shown)]; ok {
			t.Errorf("%q looks like %q: %s", name, other, shown)
		}
		seen[oneLine(shown)] = name
		for _, r := range shown {
			if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x202e {
				t.Errorf("%q is shown as %q", name, shown)
			}
		}
	}
	for _, plain := range []string{"/plain", "/with space", "/ünïcode☃"} {
		if quoted(plain) != plain {
			t.Errorf("%s", quoted(plain))
		}
	}
	if got := terminalText("a\tb\n\x1b[2J\x9b\u009b\u202e\r\n"); got != "a\tb\n␛[2J\ufffd\ufffd\ufffd␍\n" {
		t.Errorf("%q", got)
	}
}

func TestPrintDiff(t *testing.T) {
	file := func(size int64, mode string) *runtime.FileState {
		return &runtime.FileState{Type: "file", Size: size, Mode: mode}
	}
	owned := file(3, "-rw-r--r--")
	owned.UID, owned.GID = 7, 8
	d := rest.Diff{DiffResult: runtime.DiffResult{
		Changes: []runtime.FileChange{
			{Path: "/a", Kind: sandbox.ChangeAdded, B: file(12, "-rw-r--r--")},
			{Path: "/b\ufffd", PathBase64: base64.StdEncoding.EncodeToString([]byte("/b\xff\x1b")), Kind: sandbox.ChangeRemoved, A: &runtime.FileState{Type: "dir", Mode: "drwxr-xr-x"}},
			{Path: "/c", Kind: sandbox.ChangeChanged, Content: sandbox.ContentDiffers, A: file(1, "-rw-r--r--"), B: file(2, "-rwxr-xr-x")},
			{Path: "/d", Kind: sandbox.ChangeChanged, Content: sandbox.ContentUnknown, A: file(3, "-rw-r--r--"), B: owned},
			{Path: "/e", Kind: sandbox.ChangeChanged, A: &runtime.FileState{Type: "link", Mode: "Lrwxrwxrwx", Target: "x"},
				B: &runtime.FileState{Type: "link", Mode: "Lrwxrwxrwx", Target: "y\n"}},
		},
		Memory: &runtime.MemoryDiff{Total: 256 << 20, OwnA: 1 << 20, OwnB: 3 << 19, Differs: 2 << 20},
	}}
	var out bytes.Buffer
	if err := (&app{out: &out}).printDiff(d); err != nil {
		t.Fatal(err)
	}
	const want = `change   type    size  what                              path
added    file      12  -                                 /a
removed  dir        -  -                                 "/b\xff\x1b"
changed  file  1 -> 2  content, -rw-r--r-- -> -rwxr-xr-x  /c
changed  file       3  content not read, owner 0:0 -> 7:8  /d
changed  link       -  target x -> "y\n"                 /e
1 added, 1 removed, 3 changed; memory written since they parted: at most A 1.0 MiB, B 1.5 MiB, together 2.0 MiB of 256.0 MiB
`
	squeeze := func(s string) string {
		lines := strings.Split(s, "\n")
		for i := range lines {
			lines[i] = strings.Join(strings.Fields(lines[i]), " ")
		}
		return strings.Join(lines, "\n")
	}
	if squeeze(out.String()) != squeeze(want) {
		t.Errorf("%s", &out)
	}
}

// testDiffs compares copies of a sandbox of a real system.
func testDiffs(t *testing.T, sb string) {
	runCommand(t, 0, "", "exec", sb, "--", "sh", "-c", "mkdir /w && printf 'one\\ntwo\\n' >/w/f && echo x >/w/old")
	out, _ := runCommand(t, 0, "", "fork", sb)
	copied := line(out)
	defer runCommand(t, 0, "", "kill", copied)
	out, _ = runCommand(t, 0, "", "diff", sb, copied)
	if !strings.HasPrefix(out, "0 added, 0 removed, 0 changed") {
		t.Errorf("a copy: %s", out)
	}
	runCommand(t, 0, "", "exec", copied, "--", "sh", "-c", `printf 'one\n\033[2J\n' >/w/f; rm /w/old; touch "$(printf '/w/\033\n')"`)
	out, _ = runCommand(t, exitFailed, "", "diff", sb, copied)
	if strings.Contains(out, "\x1b") || !strings.Contains(out, `"/w/\x1b\n"`) && !strings.Contains(out, `"/w/\x1b"`) || !strings.Contains(out, "1 added, 1 removed, 1 changed") {
		t.Errorf("%q", out)
	}
	out, _ = runCommand(t, exitFailed, "", "diff", sb, copied, "/w/f")
	if !strings.Contains(out, "-two\n+␛[2J\n") {
		t.Errorf("%q", out)
	}
	runCommand(t, 0, "", "diff", sb, copied, "/etc/passwd")
	runCommand(t, exitNotFound, "", "diff", sb, copied, "/nothing")
	runCommand(t, exitNotFound, "", "diff", sb, "sbaaaaaaaaaa")
	out, _ = runCommand(t, exitFailed, "", "diff", sb, copied, "--json", "--limit", "1")
	if !strings.Contains(out, `"next": `) {
		t.Errorf("%s", out)
	}
}
