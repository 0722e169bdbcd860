package agentjobs

import (
	"os"
	"os/exec"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/aethervm/aether/internal/bench/agenthost"
	"github.com/aethervm/aether/internal/testenv"
)

// programEnv is the path of an aether to be driven as agents' hosts do.
const programEnv = "AETHER_PROGRAM"

// TestProgram has the agent do the jobs through `aether mcp`, a process of its own, over standard input and output.
func TestProgram(t *testing.T) {
	program := os.Getenv(programEnv)
	if program == "" {
		testenv.Require(t, "PROGRAM", programEnv+" does not name an aether")
	}
	testenv.Image(t)
	cmd := exec.CommandContext(t.Context(), program, "mcp")
	cmd.Stderr = os.Stderr
	session, err := sdk.NewClient(&sdk.Implementation{Name: "agent", Version: "1"}, nil).
		Connect(t.Context(), &sdk.CommandTransport{Command: cmd, TerminateDuration: time.Minute}, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := agenthost.Use(session)
	results, err := With(t.Context(), Config{Done: func(r Result) {
		t.Logf("%-20s %v %6d ms %3d calls %s", r.Name, r.Done, r.Duration/time.Millisecond, len(r.Calls), r.Error)
	}}, client, nil)
	if err != nil {
		t.Error(err)
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	if len(results) != len(jobs()) {
		t.Errorf("%d jobs", len(results))
	}
	for _, r := range results {
		if !r.Done && !r.NoAbility {
			t.Errorf("%s: %s", r.Name, r.Error)
		}
	}
}
