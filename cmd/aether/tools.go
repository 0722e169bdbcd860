package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/aethervm/aether/internal/server/mcp"
)

func newTools(a *app) *cobra.Command {
	format := "mcp"
	cmd := &cobra.Command{
		Use:   "tools [--format " + strings.Join(mcp.Formats(), "|") + "]",
		Short: "Print the tools that agents get, as schemas for a model's API",
		Long: `Print the tools of "aether mcp" and "aether serve" as JSON: as MCP lists them, or as the
"tools" of a request to the API of OpenAI, Anthropic or Google's Gemini. It is for
programs that talk to a model themselves and pass on its calls to aether.

  aether tools --format anthropic`,
		Args: takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			if !slices.Contains(mcp.Formats(), format) {
				return usageError("formats: "+strings.Join(mcp.Formats(), ", "), "unknown format %q", format)
			}
			list, err := mcp.ToolsAs(format)
			if err != nil {
				return err
			}
			return a.printJSON(list)
		},
	}
	cmd.Flags().StringVar(&format, "format", format, "`format`: "+strings.Join(mcp.Formats(), ", "))
	complete(cmd, "format", mcp.Formats())
	return cmd
}
