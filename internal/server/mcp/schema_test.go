package mcp

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/jsonschema-go/jsonschema"
)

func resolved(t testing.TB, s *jsonschema.Schema) *jsonschema.Resolved {
	t.Helper()
	r, err := s.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestArguments(t *testing.T) {
	schema := resolved(t, inputSchema[runArgs]())
	for raw, want := range map[string]string{
		`{"command":"true"}`:                              "",
		`{"command":"true","sandbox":null,"env":["A=1"]}`: "",
		``:                                `"command" is missing`,
		`{}`:                              `"command" is missing`,
		`{"command":null}`:                `"command" is missing`,
		`{"cmd":"true"}`:                  `no argument "cmd"; those there are: command, sandbox, `,
		`{"command":1}`:                   `command`,
		`{"command":"x","env":"A=1"}`:     `env`,
		`{"command":"x","timeout_s":"1"}`: `timeout_s`,
		`[]`:                              `not a JSON object`,
		`{`:                               `not a JSON object`,
	} {
		in, err := arguments[runArgs](schema, json.RawMessage(raw))
		switch {
		case want == "" && (err != nil || in.Command != "true"):
			t.Errorf("%s: %+v, %v", raw, in, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", raw, err, want)
		}
	}
}

func FuzzArguments(f *testing.F) {
	f.Add([]byte(`{"sandbox":"sb1","path":"/f","text":"x"}`))
	f.Add([]byte(`{"sandbox":"sb1","path":"/f","edits":[{"old":"a","new":"b","all":true}],"mode":null}`))
	f.Add([]byte(`{"edits":[null]}`))
	schema := resolved(f, inputSchema[writeArgs]())
	f.Fuzz(func(t *testing.T, raw []byte) {
		in, err := arguments[writeArgs](schema, raw)
		if err == nil && len(raw) == 0 {
			t.Errorf("nothing is %+v", in)
		}
	})
}

func FuzzAddress(f *testing.F) {
	for _, uri := range []string{"aether://ranking", "aether://sandboxes/sb1/files/etc/passwd", "aether://outputs/ou1/stdout", "file:///etc/passwd", "aether://%zz"} {
		f.Add(uri)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		parts, err := address(uri)
		if err == nil && (len(parts) == 0 || len(parts) > 4) {
			t.Errorf("%q has %d parts", uri, len(parts))
		}
	})
}

func TestSchemasAreSmall(t *testing.T) {
	raw, err := json.Marshal(outputSchema[forkResult]())
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"type":"object","properties":{"kind":{"type":"string"},"children":{"type":"array"},"duration_ms":{"type":"integer"}}}`
	if string(raw) != want {
		t.Errorf("got %s", raw)
	}
	for _, tool := range tools() {
		if !utf8.ValidString(tool.description) || !strings.HasSuffix(tool.description, ".") {
			t.Errorf("%s: %q", tool.name, tool.description)
		}
	}
}
