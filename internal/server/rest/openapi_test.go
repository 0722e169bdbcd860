package rest

import (
	"encoding/json"
	"testing"
)

// TestDocument checks what is served against the specification's own schema.
func TestDocument(t *testing.T) {
	s := serve(t, nil)
	if good, errs := s.check.v.ValidateDocument(); !good {
		for _, e := range errs {
			t.Errorf("%s: %s", e.Message, e.Reason)
			for _, v := range e.SchemaValidationErrors {
				t.Errorf("  %s at %s", v.Reason, v.InstancePath)
			}
		}
	}
	if s.check.doc["openapi"] != "3.1.0" {
		t.Errorf("it is of version %v", s.check.doc["openapi"])
	}
	raw, err := json.MarshalIndent(s.check.doc, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes, %s", len(raw), raw)
}
