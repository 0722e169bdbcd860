package mcp

import (
	"encoding/json"
	"testing"

	"github.com/google/jsonschema-go/jsonschema"
)

// checkOutput checks structured content against the output schema that the tool was listed with.
func checkOutput(t *testing.T, tool string, schema, content any) {
	t.Helper()
	raw, err := json.Marshal(schema)
	if err != nil {
		t.Fatal(err)
	}
	var s jsonschema.Schema
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatal(err)
	}
	if raw, err = json.Marshal(content); err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	if _, ok := v.(map[string]any); !ok {
		t.Errorf("%s: structured content %s", tool, raw)
		return
	}
	if err := resolved(t, &s).Validate(v); err != nil {
		t.Errorf("%s: %v\n%s", tool, err, raw)
	}
}
