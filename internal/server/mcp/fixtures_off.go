//go:build !mcpfixtures

package mcp

import sdk "github.com/modelcontextprotocol/go-sdk/mcp"

// See fixtures.go.

func fixtureOptions(*sdk.ServerOptions) {}
func addFixtures(*sdk.Server)           {}
