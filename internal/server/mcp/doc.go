// Package mcp serves the operations of package runtime over the Model Context Protocol, on stdio and
// over Streamable HTTP, in its revisions 2025-11-25 and 2026-07-28.
//
// It translates and decides nothing. A tool's arguments become a request, a result becomes structured
// content with the same in plain text beside it, an error a result with isError and the error's code, cause
// and remedy. What is too long to be shown is a resource, and a handle for the tool "read".
//
// A host of a model pays for the list of tools in every conversation, so a test bounds its size.
package mcp
