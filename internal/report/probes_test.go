package report

import (
	"encoding/json"
	"testing"

	"github.com/aethervm/aether/internal/bench"
)

// FuzzProbes: whatever a probe report holds, the page is built or the report is left out.
func FuzzProbes(f *testing.F) {
	f.Add([]byte(`{"inside":[{"name":"a","finding":"b","verdict":"worse","items":["c"]}],"bombs":[],"runs":[{"name":"bombs.memory","limit":"x","sibling":{"all_ms":[1,2,0,-1]}}]}`))
	f.Add([]byte(`{"inside":null}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := measured{id: "docker", title: "Docker", System: &bench.System{Available: true}}
		r := &bench.Results{Probes: map[string]json.RawMessage{"docker": raw}}
		systems := probedSystems(r, []measured{m})
		for _, table := range probeTables(systems) {
			for _, row := range table.Rows {
				if len(row) != len(table.Head) {
					t.Fatalf("%s: %d cells under %d heads", table.Title, len(row), len(table.Head))
				}
			}
		}
		if _, err := bombPlots(systems); err != nil {
			t.Fatal(err)
		}
	})
}
