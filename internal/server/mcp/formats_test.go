package mcp

import (
	"encoding/json"
	"regexp"
	"slices"
	"testing"
)

// decoded is what a format looks like to who reads its JSON.
func decoded[T any](t *testing.T, format string) T {
	t.Helper()
	v, err := ToolsAs(format)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out T
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

type object = map[string]any

// onlyKeys checks that v has all keys in need and none besides those and may.
func onlyKeys(t *testing.T, what string, v object, need, may []string) {
	t.Helper()
	for k := range v {
		if !slices.Contains(need, k) && !slices.Contains(may, k) {
			t.Errorf("%s: the API knows no %q", what, k)
		}
	}
	for _, k := range need {
		if v[k] == nil || v[k] == "" {
			t.Errorf("%s: %q is missing", what, k)
		}
	}
}

// What the APIs of OpenAI and Anthropic both ask of a tool's name, and OpenAI of the description.
var toolName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

const descriptionSize = 1024

func checkNamed(t *testing.T, v object) string {
	t.Helper()
	name, _ := v["name"].(string)
	if !toolName.MatchString(name) {
		t.Errorf("name %q", name)
	}
	if d, _ := v["description"].(string); d == "" || len(d) > descriptionSize {
		t.Errorf("%s: a description of %d bytes", name, len(d))
	}
	return name
}

// checkSchema checks that v is of the part of JSON Schema that every API reads.
func checkSchema(t *testing.T, what string, v object, types []string, depth int) {
	t.Helper()
	typ, _ := v["type"].(string)
	if !slices.Contains(types, typ) {
		t.Errorf("%s: type %q is not among %v", what, typ, types)
	}
	if depth > 5 {
		t.Errorf("%s: nested too deep", what)
	}
	properties, _ := v["properties"].(object)
	required, _ := v["required"].([]any)
	for _, name := range required {
		if properties[name.(string)] == nil {
			t.Errorf("%s: required %q is not a property", what, name)
		}
	}
	for name, p := range properties {
		checkSchema(t, what+"."+name, p.(object), types, depth+1)
	}
	if v["enum"] != nil && typ != "string" && typ != "STRING" {
		t.Errorf("%s: an enum of type %s", what, typ)
	}
	items, _ := v["items"].(object)
	if isArray := typ == "array" || typ == "ARRAY"; isArray != (items != nil) {
		t.Errorf("%s: type %s, items %v", what, typ, items)
	} else if isArray {
		checkSchema(t, what+"[]", items, types, depth+1)
	}
}

var (
	jsonTypes     = []string{"object", "array", "string", "number", "integer", "boolean"}
	geminiTypes   = []string{"OBJECT", "ARRAY", "STRING", "NUMBER", "INTEGER", "BOOLEAN"}
	schemaDetails = []string{"properties", "required", "additionalProperties", "description"}
)

func TestOpenAITools(t *testing.T) {
	list := decoded[[]object](t, "openai")
	for _, entry := range list {
		onlyKeys(t, "tool", entry, []string{"type", "function"}, nil)
		if entry["type"] != "function" {
			t.Errorf("type %v", entry["type"])
		}
		f, _ := entry["function"].(object)
		name := checkNamed(t, f)
		onlyKeys(t, name, f, []string{"name", "description", "parameters"}, []string{"strict"})
		parameters, _ := f["parameters"].(object)
		onlyKeys(t, name, parameters, []string{"type"}, schemaDetails)
		checkSchema(t, name, parameters, jsonTypes, 0)
	}
	checkCount(t, len(list))
}

func TestAnthropicTools(t *testing.T) {
	list := decoded[[]object](t, "anthropic")
	for _, entry := range list {
		name := checkNamed(t, entry)
		onlyKeys(t, name, entry, []string{"name", "description", "input_schema"}, nil)
		schema, _ := entry["input_schema"].(object)
		if schema["type"] != "object" {
			t.Errorf("%s: the schema is of type %v", name, schema["type"])
		}
		checkSchema(t, name, schema, jsonTypes, 0)
	}
	checkCount(t, len(list))
}

func TestGeminiTools(t *testing.T) {
	list := decoded[[]struct {
		FunctionDeclarations []object `json:"functionDeclarations"`
	}](t, "gemini")
	if len(list) != 1 {
		t.Fatalf("%d tools, want one with all functions", len(list))
	}
	for _, f := range list[0].FunctionDeclarations {
		name := checkNamed(t, f)
		onlyKeys(t, name, f, []string{"name", "description"}, []string{"parameters"})
		if parameters, ok := f["parameters"].(object); ok {
			checkSchema(t, name, parameters, geminiTypes, 0)
			checkGemini(t, name, parameters)
		}
	}
	checkCount(t, len(list[0].FunctionDeclarations))
}

// checkGemini checks what Gemini's Schema asks for besides.
func checkGemini(t *testing.T, what string, v object) {
	t.Helper()
	onlyKeys(t, what, v, []string{"type"}, geminiKeywords)
	properties, _ := v["properties"].(object)
	if v["type"] == "OBJECT" && len(properties) == 0 {
		t.Errorf("%s: an object without properties is refused", what)
	}
	if order, _ := v["propertyOrdering"].([]any); len(order) != len(properties) {
		t.Errorf("%s: %d of %d properties have a place", what, len(order), len(properties))
	}
	for name, p := range properties {
		checkGemini(t, what+"."+name, p.(object))
	}
	if items, ok := v["items"].(object); ok {
		checkGemini(t, what+"[]", items)
	}
}

func checkCount(t *testing.T, n int) {
	t.Helper()
	if n != len(tools()) {
		t.Errorf("%d of %d tools", n, len(tools()))
	}
}

func TestUnknownFormat(t *testing.T) {
	if _, err := ToolsAs("cobol"); err == nil {
		t.Error("no error")
	}
}
