package mcp

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"
)

// Formats are the ways in which [ToolsAs] writes the tools: as MCP lists them, and as the model APIs of
// OpenAI, Anthropic and Google take them.
func Formats() []string { return []string{"mcp", "openai", "anthropic", "gemini"} }

// ToolsAs is the registry of tools as a value that encodes to the JSON that an API takes for "tools". It
// is for programs that talk to a model themselves and pass its calls on to aether.
func ToolsAs(format string) (any, error) {
	var list []any
	for _, t := range tools() {
		switch format {
		case "mcp":
			list = append(list, t.sdk())
		case "openai":
			list = append(list, openAITool{Type: "function", Function: openAIFunction{t.name, t.description, t.input}})
		case "anthropic":
			list = append(list, anthropicTool{t.name, t.description, t.input})
		case "gemini":
			f := geminiFunction{Name: t.name, Description: t.description}
			if len(t.input.Properties) > 0 { // an object without properties is refused
				var err error
				if f.Parameters, err = geminiSchema(t.input); err != nil {
					return nil, fmt.Errorf("tool %s: %w", t.name, err)
				}
			}
			list = append(list, f)
		default:
			return nil, fmt.Errorf("unknown format %q; there are %s", format, strings.Join(Formats(), ", "))
		}
	}
	switch format {
	case "mcp":
		return map[string]any{"tools": list}, nil
	case "gemini":
		return []any{map[string]any{"functionDeclarations": list}}, nil
	}
	return list, nil
}

// openAITool is an entry of "tools" of POST /v1/chat/completions, not strict: a strict schema would
// require every argument.
// https://platform.openai.com/docs/api-reference/chat/create#chat-create-tools
type openAITool struct {
	Type     string         `json:"type"`
	Function openAIFunction `json:"function"`
}

type openAIFunction struct {
	Name        string             `json:"name"`
	Description string             `json:"description"`
	Parameters  *jsonschema.Schema `json:"parameters"`
}

// anthropicTool is an entry of "tools" of POST /v1/messages.
// https://docs.anthropic.com/en/api/messages#body-tools
type anthropicTool struct {
	Name        string             `json:"name"`
	Description string             `json:"description"`
	InputSchema *jsonschema.Schema `json:"input_schema"`
}

// geminiFunction is a FunctionDeclaration of generateContent.
// https://ai.google.dev/api/caching#FunctionDeclaration
type geminiFunction struct {
	Name        string         `json:"name"`
	Description string         `json:"description"`
	Parameters  map[string]any `json:"parameters,omitempty"`
}

// geminiKeywords are those of our schemas' keywords that Gemini's Schema, a part of OpenAPI 3.0's, has.
// https://ai.google.dev/api/caching#Schema
var geminiKeywords = []string{
	"type", "description", "enum", "properties", "required", "items", "minimum", "maximum", "minItems", "maxItems",
	"propertyOrdering", "nullable", "format", "title",
}

// geminiSchema is a schema in the words of Gemini: types in capitals, an order of properties beside
// them, and nothing that it refuses to read, such as additionalProperties.
func geminiSchema(s *jsonschema.Schema) (map[string]any, error) {
	raw, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, err
	}
	for k := range m {
		if !slices.Contains(geminiKeywords, k) {
			delete(m, k)
		}
	}
	m["type"] = strings.ToUpper(s.Type)
	if s.Enum != nil {
		m["format"] = "enum"
	}
	if s.Items != nil {
		if m["items"], err = geminiSchema(s.Items); err != nil {
			return nil, err
		}
	}
	if len(s.Properties) > 0 {
		properties := map[string]any{}
		for name, p := range s.Properties {
			if properties[name], err = geminiSchema(p); err != nil {
				return nil, err
			}
		}
		m["properties"], m["propertyOrdering"] = properties, s.PropertyOrder
	}
	return m, nil
}
