package sandbox_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/aethervm/aether/sandbox"
)

func TestTerminalIsChecked(t *testing.T) {
	for name, c := range map[string]struct {
		terminal sandbox.Terminal
		ok       bool
	}{
		"defaults":      {sandbox.Terminal{}, true},
		"largest":       {sandbox.Terminal{Size: sandbox.TerminalSize{Rows: sandbox.MaxTerminalSize, Cols: 1}}, true},
		"no columns":    {sandbox.Terminal{Size: sandbox.TerminalSize{Rows: 24}}, false},
		"too large":     {sandbox.Terminal{Size: sandbox.TerminalSize{Rows: 24, Cols: sandbox.MaxTerminalSize + 1}}, false},
		"type":          {sandbox.Terminal{Term: "screen.xterm-256color"}, true},
		"a line break":  {sandbox.Terminal{Term: "xterm\nX=1"}, false},
		"a long type":   {sandbox.Terminal{Term: strings.Repeat("x", 65)}, false},
		"no ASCII type": {sandbox.Terminal{Term: "x\u00e9"}, false},
	} {
		err := sandbox.Cmd{Args: []string{"true"}, Terminal: &c.terminal}.Check()
		if c.ok && err != nil || !c.ok && !errors.Is(err, sandbox.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTerminalTypeIsInTheEnvironment(t *testing.T) {
	cmd := sandbox.Cmd{Env: []string{"A=1"}}
	if env := cmd.Environment(); !slices.Equal(env, []string{"A=1"}) {
		t.Errorf("without a terminal: %q", env)
	}
	cmd.Terminal = &sandbox.Terminal{}
	if env := sandbox.Environ([]string{"TERM=dumb"}, cmd.Environment()); !slices.Contains(env, "TERM=xterm") {
		t.Errorf("the image's type is kept: %q", env)
	}
	cmd.Env = append(cmd.Env, "TERM=vt100")
	if env := sandbox.Environ(cmd.Environment()); !slices.Contains(env, "TERM=vt100") {
		t.Errorf("the command's own type is not taken: %q", env)
	}
}
