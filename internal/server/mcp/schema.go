package mcp

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"
)

// inputSchema is the schema of a tool's arguments, from the fields of T: the json tag gives the name
// and whether it may be left out, jsonschema the description, enum the values.
func inputSchema[T any]() *jsonschema.Schema { return schemaOf[T](true) }

// outputSchema is the schema of a tool's structured result. It requires nothing, so that the result of
// a failed call, which is an error object alone, conforms to it as well: some clients check.
func outputSchema[T any]() *jsonschema.Schema { return schemaOf[T](false) }

func schemaOf[T any](input bool) *jsonschema.Schema {
	t := reflect.TypeFor[T]()
	s, err := jsonschema.For[T](nil)
	if err != nil {
		panic(fmt.Sprintf("schema of %s: %v", t, err)) // the types are ours, and a test builds them all
	}
	trim(s, t, input, 0)
	return s
}

// trim takes out of a derived schema what costs tokens and says little: null beside a type, and of a
// result what is deeper than its own fields, which are named to be understood. Every host of a model
// pays for the schemas in every conversation.
func trim(s *jsonschema.Schema, t reflect.Type, input bool, depth int) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if i := slices.Index(s.Types, "null"); i >= 0 && len(s.Types) == 2 {
		s.Type, s.Types = s.Types[1-i], nil
	}
	s.AdditionalProperties = nil
	if !input {
		s.Required = nil
	}
	switch {
	case t.Kind() == reflect.Struct && !input && depth > 0:
		*s = jsonschema.Schema{Type: s.Type}
	case t.Kind() == reflect.Struct:
		for _, f := range reflect.VisibleFields(t) {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			p := s.Properties[name]
			if p == nil {
				continue
			}
			trim(p, f.Type, input, depth+1)
			if values := f.Tag.Get("enum"); values != "" {
				for v := range strings.SplitSeq(values, ",") {
					p.Enum = append(p.Enum, v)
				}
			}
		}
	case s.Items != nil && !input:
		s.Items = nil
	case s.Items != nil:
		trim(s.Items, t.Elem(), input, depth)
	}
}

// arguments checks the arguments of a call against the schema and decodes them into T. A null is taken
// for an argument that was left out: models that must name every argument send it.
func arguments[T any](schema *jsonschema.Resolved, raw json.RawMessage) (in T, err error) {
	fields := map[string]any{}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &fields); err != nil {
			return in, fmt.Errorf("the arguments are not a JSON object: %w", err)
		}
	}
	for name, v := range fields {
		if v == nil {
			delete(fields, name)
		}
	}
	if err := checkNames(schema.Schema(), fields); err != nil {
		return in, err
	}
	if err := schema.Validate(fields); err != nil {
		return in, err
	}
	clean, err := json.Marshal(fields)
	if err != nil {
		return in, err
	}
	return in, json.Unmarshal(clean, &in)
}

// checkNames refuses unknown arguments, so that a misspelt one is noticed, and says in plain words what the
// validator says in terms of schemas: which arguments there are, and which are missing.
func checkNames(s *jsonschema.Schema, fields map[string]any) error {
	for name := range fields {
		if s.Properties[name] == nil {
			return fmt.Errorf("there is no argument %.40q; those there are: %s", name, strings.Join(s.PropertyOrder, ", "))
		}
	}
	for _, name := range s.Required {
		if _, ok := fields[name]; !ok {
			return fmt.Errorf("the argument %q is missing", name)
		}
	}
	return nil
}
