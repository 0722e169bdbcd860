package gvisor

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/aethervm/aether/sandbox"
)

func TestParseVersion(t *testing.T) {
	for in, want := range map[string]string{
		"runsc version v0.0.0-20260905035102-160fafc42237\nspec: 1.2.1\n": "v0.0.0-20260905035102-160fafc42237",
		"runsc version release-20250101.0\n":                              "release-20250101.0",
		"runsc version \n":                                                "",
		"runc version 1.1.5\n":                                            "",
		"":                                                                "",
	} {
		got, err := parseVersion([]byte(in))
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestParseLog(t *testing.T) {
	for in, want := range map[string]string{
		"": "",
		`{"msg":"loading container: file does not exist","level":"error","time":"2026-11-24T23:34:14Z"}`: "loading container: file does not exist",
		`{"msg":"a\n b","level":"error"}{"msg":"c"}`:                                                     "a b; c",
		`{"msg":"cut off`:           `{"msg":"cut off`,
		`{"msg":"whole"}panic: boo`: "whole; panic: boo",
		"plain text\n":              "plain text",
	} {
		if got := parseLog([]byte(in)); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

const statsReply = `{"type":"stats","id":"s1","data":{"cpu":{"usage":{"total":174811775}},"memory":{"usage":{"limit":0,"usage":45326336,"failcnt":0}},"pids":{"current":2}}}`

func TestParseStats(t *testing.T) {
	got, err := parseStats([]byte(statsReply))
	want := sandbox.Stats{MemoryBytes: 45326336, CPUNanos: 174811775, Processes: 2}
	if err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range []string{
		"", "{}", `{"type":"oom"}`, "[]", statsReply + "{",
		strings.Replace(statsReply, "45326336", "18446744073709551615", 1),
		strings.Replace(statsReply, "45326336", "-1", 1),
	} {
		if got, err := parseStats([]byte(bad)); err == nil {
			t.Errorf("%q was read as %+v", bad, got)
		}
	}
}

func TestParsePanic(t *testing.T) {
	for in, want := range map[string]string{
		"": "",
		"panic: Unknown syscall 56 error: createSysmsgThread\n\ngoroutine 716 [running]:\n": "panic: Unknown syscall 56 error: createSysmsgThread",
		"log line\nfatal error: out of memory\n":                                            "fatal error: out of memory",
		"panic: \xff\n":                                                                     "panic: ?",
	} {
		if got := parsePanic([]byte(in)); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestParseCgroupFiles(t *testing.T) {
	if got := parsePIDs([]byte("12\n0\n1\nx\n\n 34 \n")); len(got) != 2 || got[0] != 12 || got[1] != 34 {
		t.Errorf("PIDs: %v; neither 0 nor 1 nor what is no number may be killed", got)
	}
	for in, want := range map[string]uint64{
		"oom_kill_disable 0\nunder_oom 0\noom_kill 3\n":               3,
		"low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\noom_group_kill 0\n": 1,
		"oom_kill x\n": 0,
		"":             0,
	} {
		if got := parseOOMKills([]byte(in)); got != want {
			t.Errorf("%q: got %d, want %d", in, got, want)
		}
	}
}

func FuzzParseVersion(f *testing.F) {
	f.Add([]byte("runsc version v1\nspec: 1.2.1\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if v, err := parseVersion(in); err == nil && (v == "" || strings.ContainsAny(v, " \n")) {
			t.Errorf("%q: version %q", in, v)
		}
	})
}

func FuzzParseLog(f *testing.F) {
	f.Add([]byte(`{"msg":"a"}{"msg":"b"}x`))
	f.Fuzz(func(t *testing.T, in []byte) {
		if said := parseLog(in); strings.ContainsRune(said, '\n') {
			t.Errorf("%q: more than one line: %q", in, said)
		}
	})
}

func FuzzParseStats(f *testing.F) {
	f.Add([]byte(statsReply))
	f.Fuzz(func(t *testing.T, in []byte) {
		if s, err := parseStats(in); err == nil && (s.MemoryBytes < 0 || s.CPUNanos < 0 || s.Processes < 0) {
			t.Errorf("%q: %+v", in, s)
		}
	})
}

func FuzzParsePanic(f *testing.F) {
	f.Add([]byte("panic: x\ngoroutine 1"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if said := parsePanic(in); strings.ContainsRune(said, '\n') || !utf8.ValidString(said) || len(said) > 900 {
			t.Errorf("%q: %q", in, said)
		}
	})
}

func FuzzParseCgroupFiles(f *testing.F) {
	f.Add([]byte("1\n2\noom_kill 3\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, pid := range parsePIDs(in) {
			if pid <= 1 {
				t.Errorf("%q: would kill %d", in, pid)
			}
		}
		parseOOMKills(in)
	})
}
