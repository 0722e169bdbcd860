//go:build mcpfixtures

//nolint:staticcheck // SA1019: the suite scores what revision 2026-07-28 deprecates
package mcp

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// With the build tag mcpfixtures a server has the tools, prompts and resources that MCP's conformance suite asks
// for, by these names and with these answers. Such a build is for tests only.
// https://github.com/modelcontextprotocol/conformance

func fixtureOptions(o *sdk.ServerOptions) {
	o.CompletionHandler = func(context.Context, *sdk.CompleteRequest) (*sdk.CompleteResult, error) {
		return &sdk.CompleteResult{Completion: sdk.CompletionResultDetails{Values: []string{}}}, nil
	}
	o.SubscribeHandler = func(context.Context, *sdk.SubscribeRequest) error { return nil }
	o.UnsubscribeHandler = func(context.Context, *sdk.UnsubscribeRequest) error { return nil }
	o.Capabilities = nil // inferred from what is there, changes of lists included
}

// A PNG of one pixel, and a WAV without a sample.
var (
	fixtureImage = unbase64("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")
	fixtureAudio = unbase64("UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQAAAAA=")
)

func unbase64(s string) []byte {
	data, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return data
}

func textOf(format string, args ...any) *sdk.TextContent {
	return &sdk.TextContent{Text: fmt.Sprintf(format, args...)}
}

func answer(content ...sdk.Content) (*sdk.CallToolResult, error) {
	return &sdk.CallToolResult{Content: content}, nil
}

func ask(state string, requests sdk.InputRequestMap) (*sdk.CallToolResult, error) {
	return &sdk.CallToolResult{InputRequests: requests, RequestState: state}, nil
}

func embedded(uri, text string) *sdk.EmbeddedResource {
	return &sdk.EmbeddedResource{Resource: &sdk.ResourceContents{URI: uri, MIMEType: "text/plain", Text: text}}
}

// form is a question with one field.
func form(message, field, typ string) *sdk.ElicitParams {
	return &sdk.ElicitParams{Message: message, RequestedSchema: map[string]any{
		"type": "object", "properties": map[string]any{field: map[string]any{"type": typ}}, "required": []string{field},
	}}
}

func sample(text string) *sdk.CreateMessageParams {
	return &sdk.CreateMessageParams{MaxTokens: 100, Messages: []*sdk.SamplingMessage{{Role: "user", Content: textOf("%s", text)}}}
}

// said is the text that a client's model has answered.
func said(c []sdk.Content) string {
	for _, c := range c {
		if t, ok := c.(*sdk.TextContent); ok {
			return t.Text
		}
	}
	return ""
}

// filled is what was filled in in a form, or nil.
func filled(answers sdk.InputResponseMap, key string) map[string]any {
	if e, ok := answers[key].(*sdk.ElicitResult); ok && e.Action == "accept" {
		return e.Content
	}
	return nil
}

func sampled(answers sdk.InputResponseMap, key string) (string, bool) {
	m, ok := answers[key].(*sdk.CreateMessageWithToolsResult)
	if !ok {
		return "", false
	}
	return said(m.Content), true
}

func addFixtures(server *sdk.Server) {
	add := func(name string, schema any, f sdk.ToolHandler) {
		server.AddTool(&sdk.Tool{Name: name, Description: "for the conformance suite", InputSchema: schema}, f)
	}
	open := map[string]any{"type": "object"}
	for name, content := range map[string][]sdk.Content{
		"test_simple_text":       {textOf("This is a simple text response for testing.")},
		"test_image_content":     {&sdk.ImageContent{Data: fixtureImage, MIMEType: "image/png"}},
		"test_audio_content":     {&sdk.AudioContent{Data: fixtureAudio, MIMEType: "audio/wav"}},
		"test_embedded_resource": {embedded("test://embedded-resource", "an embedded resource")},
		"test_multiple_content_types": {textOf("text"), &sdk.ImageContent{Data: fixtureImage, MIMEType: "image/png"},
			embedded("test://mixed", "an embedded resource")},
		"test_streaming_elicitation": {textOf("only a result")},
	} {
		add(name, open, func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) { return answer(content...) })
	}
	add("test_error_handling", open, func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		return &sdk.CallToolResult{IsError: true, Content: []sdk.Content{textOf("This tool intentionally returns an error for testing")}}, nil
	})
	logs := func(messages ...string) sdk.ToolHandler {
		return func(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			for _, m := range messages {
				if err := req.Session.Log(ctx, &sdk.LoggingMessageParams{Level: "info", Data: m}); err != nil {
					return nil, err
				}
				time.Sleep(50 * time.Millisecond)
			}
			return answer(textOf("logged"))
		}
	}
	add("test_tool_with_logging", open, logs("Tool execution started", "Tool processing data", "Tool execution completed"))
	add("test_logging_tool", open, logs("only for who has asked"))
	add("test_tool_with_progress", open, func(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		token := req.Params.GetProgressToken()
		for _, p := range []float64{0, 50, 100} {
			if err := req.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{ProgressToken: token, Progress: p, Total: 100}); err != nil {
				return nil, err
			}
			time.Sleep(50 * time.Millisecond)
		}
		return answer(textOf("%v", token))
	})
	add("json_schema_2020_12_tool", json.RawMessage(fixtureSchema), func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		return answer(textOf("called"))
	})
	add("test_x_mcp_header", json.RawMessage(`{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"}}}`),
		func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			return answer(textOf("called"))
		})
	add("test_reconnection", open, func(_ context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		if req.Extra != nil && req.Extra.CloseSSEStream != nil {
			req.Extra.CloseSSEStream(sdk.CloseSSEStreamArgs{RetryAfter: 10 * time.Millisecond})
		}
		time.Sleep(100 * time.Millisecond)
		return answer(textOf("after a reconnection"))
	})
	add("test_trigger_tool_change", open, func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		add("test_changed", open, func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) { return answer(textOf("")) })
		return answer(textOf("changed"))
	})
	add("test_trigger_prompt_change", open, func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		server.AddPrompt(&sdk.Prompt{Name: "test_changed", Description: "new"}, func(context.Context, *sdk.GetPromptRequest) (*sdk.GetPromptResult, error) {
			return &sdk.GetPromptResult{}, nil
		})
		return answer(textOf("changed"))
	})
	add("test_missing_capability", open, func(_ context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		if c := req.ClientCapabilities(); c != nil && c.Sampling != nil {
			return answer(textOf("the client can sample"))
		}
		data, err := json.Marshal(sdk.MissingRequiredClientCapabilityData{RequiredCapabilities: &sdk.ClientCapabilities{Sampling: &sdk.SamplingCapabilities{}}})
		if err != nil {
			return nil, err
		}
		return nil, &jsonrpc.Error{Code: sdk.CodeMissingRequiredClientCapabilities, Message: "the client must be able to sample", Data: data}
	})
	addAsking(add, open)
	addInputRequired(add, open)
	addFixturePrompts(server)
	addFixtureResources(server)
}

// addAsking adds tools that ask the client in a request of their own, as revision 2025-11-25 has it.
func addAsking(add func(string, any, sdk.ToolHandler), open any) {
	add("test_sampling", open, func(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		var in struct{ Prompt string }
		if err := json.Unmarshal(req.Params.Arguments, &in); err != nil {
			return nil, err
		}
		r, err := req.Session.CreateMessage(ctx, sample(in.Prompt))
		if err != nil {
			return nil, err
		}
		return answer(textOf("LLM response: %s", said([]sdk.Content{r.Content})))
	})
	elicit := func(message string, schema any) sdk.ToolHandler {
		return func(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			var in struct{ Message string }
			_ = json.Unmarshal(req.Params.Arguments, &in) // only one of the tools takes it
			if message == "" {
				message = in.Message
			}
			r, err := req.Session.Elicit(ctx, &sdk.ElicitParams{Message: message, RequestedSchema: schema})
			if err != nil {
				return nil, err
			}
			return answer(textOf("Elicitation result: action=%s, content=%v", r.Action, r.Content))
		}
	}
	properties := func(p string) json.RawMessage { return json.RawMessage(`{"type":"object","properties":` + p + `}`) }
	add("test_elicitation", open, elicit("", json.RawMessage(`{"type":"object","properties":{"username":{"type":"string"}},"required":["username"]}`)))
	add("test_elicitation_sep1034_defaults", open, elicit("defaults", properties(`{
		"name": {"type":"string", "default":"John Doe"},
		"age": {"type":"integer", "default":30},
		"score": {"type":"number", "default":95.5},
		"status": {"type":"string", "enum":["active","inactive","pending"], "default":"active"},
		"verified": {"type":"boolean", "default":true}}`)))
	add("test_elicitation_sep1330_enums", open, elicit("enums", properties(`{
		"untitledSingle": {"type":"string", "enum":["option1","option2","option3"]},
		"titledSingle": {"type":"string", "oneOf":[{"const":"value1","title":"First"},{"const":"value2","title":"Second"},{"const":"value3","title":"Third"}]},
		"legacyEnum": {"type":"string", "enum":["opt1","opt2","opt3"], "enumNames":["One","Two","Three"]},
		"untitledMulti": {"type":"array", "minItems":1, "maxItems":3, "items":{"type":"string","enum":["option1","option2","option3"]}},
		"titledMulti": {"type":"array", "minItems":1, "maxItems":3,
			"items":{"anyOf":[{"const":"value1","title":"First"},{"const":"value2","title":"Second"},{"const":"value3","title":"Third"}]}}}`)))
}

// errTampered answers a request whose state is not as this server has given it out.
var errTampered = &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "requestState is not what it was"}

// addInputRequired adds tools that ask by their result, as revision 2026-07-28 has it.
func addInputRequired(add func(string, any, sdk.ToolHandler), open any) {
	tool := func(name string, f func(p *sdk.CallToolParamsRaw, req *sdk.CallToolRequest) (*sdk.CallToolResult, error)) {
		add("test_input_required_result_"+name, open, func(_ context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			return f(req.Params, req)
		})
	}
	roots := func(p *sdk.CallToolParamsRaw) (int, bool) {
		r, ok := p.InputResponses["client_roots"].(*sdk.ListRootsResult)
		if !ok {
			return 0, false
		}
		return len(r.Roots), true
	}
	tool("elicitation", func(p *sdk.CallToolParamsRaw, _ *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		if name, _ := filled(p.InputResponses, "user_name")["name"].(string); name != "" {
			return answer(textOf("Hello, %s!", name))
		}
		return ask("", sdk.InputRequestMap{"user_name": form("What is your name?", "name", "string")})
	})
	tool("sampling", func(p *sdk.CallToolParamsRaw, _ *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		if text, ok := sampled(p.InputResponses, "capital_question"); ok {
			return answer(textOf("Sampling response: %s", text))
		}
		return ask("", sdk.InputRequestMap{"capital_question": sample("What is the capital of France?")})
	})
	tool("list_roots", func(p *sdk.CallToolParamsRaw, _ *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		if n, ok := roots(p); ok {
			return answer(textOf("%d roots", n))
		}
		return ask("", sdk.InputRequestMap{"client_roots": &sdk.ListRootsParams{}})
	})
	confirmed := func(state string) func(*sdk.CallToolParamsRaw, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		return func(p *sdk.CallToolParamsRaw, _ *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			switch {
			case p.RequestState != "" && p.RequestState != state:
				return nil, errTampered
			case p.RequestState == state && filled(p.InputResponses, "confirm") != nil:
				return answer(textOf("state-ok"))
			}
			return ask(state, sdk.InputRequestMap{"confirm": form("Please confirm", "ok", "boolean")})
		}
	}
	tool("request_state", confirmed("a-state"))
	tool("tampered_state", confirmed("another-state"))
	tool("multiple_inputs", func(p *sdk.CallToolParamsRaw, _ *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		name, _ := filled(p.InputResponses, "user_name")["name"].(string)
		greeting, greeted := sampled(p.InputResponses, "greeting")
		n, rooted := roots(p)
		if name != "" && greeted && rooted {
			return answer(textOf("%s %s, %d roots", greeting, name, n))
		}
		return ask("multiple", sdk.InputRequestMap{
			"user_name": form("What is your name?", "name", "string"), "greeting": sample("Greet"), "client_roots": &sdk.ListRootsParams{},
		})
	})
	tool("multi_round", func(p *sdk.CallToolParamsRaw, _ *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		name, second := strings.CutPrefix(p.RequestState, "2:")
		switch {
		case p.RequestState == "":
			return ask("1", sdk.InputRequestMap{"step1": form("What is your name?", "name", "string")})
		case !second:
			return ask(fmt.Sprintf("2:%v", filled(p.InputResponses, "step1")["name"]),
				sdk.InputRequestMap{"step2": form("What is your favorite color?", "color", "string")})
		}
		return answer(textOf("%s likes %v", name, filled(p.InputResponses, "step2")["color"]))
	})
	tool("capabilities", func(p *sdk.CallToolParamsRaw, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		requests := sdk.InputRequestMap{}
		if c := req.ClientCapabilities(); c != nil && len(p.InputResponses) == 0 {
			if c.Elicitation != nil {
				requests["user_name"] = form("What is your name?", "name", "string")
			}
			if c.Sampling != nil {
				requests["greeting"] = sample("Greet")
			}
			if c.RootsV2 != nil {
				requests["client_roots"] = &sdk.ListRootsParams{}
			}
		}
		if len(requests) == 0 {
			return answer(textOf("nothing to ask"))
		}
		return ask("", requests)
	})
}

func addFixturePrompts(server *sdk.Server) {
	add := func(name string, arguments []string, f func(p *sdk.GetPromptParams) []sdk.Content) {
		prompt := &sdk.Prompt{Name: name, Description: "for the conformance suite"}
		for _, a := range arguments {
			prompt.Arguments = append(prompt.Arguments, &sdk.PromptArgument{Name: a, Description: a, Required: true})
		}
		server.AddPrompt(prompt, func(_ context.Context, req *sdk.GetPromptRequest) (*sdk.GetPromptResult, error) {
			var messages []*sdk.PromptMessage
			for _, c := range f(req.Params) {
				messages = append(messages, &sdk.PromptMessage{Role: "user", Content: c})
			}
			return &sdk.GetPromptResult{Messages: messages}, nil
		})
	}
	add("test_simple_prompt", nil, func(*sdk.GetPromptParams) []sdk.Content { return []sdk.Content{textOf("a prompt")} })
	add("test_prompt_with_arguments", []string{"arg1", "arg2"}, func(p *sdk.GetPromptParams) []sdk.Content {
		return []sdk.Content{textOf("arg1='%s', arg2='%s'", p.Arguments["arg1"], p.Arguments["arg2"])}
	})
	add("test_prompt_with_embedded_resource", []string{"resourceUri"}, func(p *sdk.GetPromptParams) []sdk.Content {
		return []sdk.Content{embedded(p.Arguments["resourceUri"], "content"), textOf("process it")}
	})
	add("test_prompt_with_image", nil, func(*sdk.GetPromptParams) []sdk.Content {
		return []sdk.Content{&sdk.ImageContent{Data: fixtureImage, MIMEType: "image/png"}, textOf("look at it")}
	})
	server.AddPrompt(&sdk.Prompt{Name: "test_input_required_result_prompt", Description: "asks"}, func(_ context.Context, req *sdk.GetPromptRequest) (*sdk.GetPromptResult, error) {
		if c := filled(req.Params.InputResponses, "user_context"); c != nil {
			return &sdk.GetPromptResult{Messages: []*sdk.PromptMessage{{Role: "user", Content: textOf("context: %v", c["context"])}}}, nil
		}
		return &sdk.GetPromptResult{InputRequests: sdk.InputRequestMap{"user_context": form("Which context?", "context", "string")}}, nil
	})
}

func addFixtureResources(server *sdk.Server) {
	read := func(c sdk.ResourceContents) sdk.ResourceHandler {
		return func(_ context.Context, req *sdk.ReadResourceRequest) (*sdk.ReadResourceResult, error) {
			c := c
			c.URI = req.Params.URI
			if c.MIMEType == "application/json" {
				id, ok := strings.CutSuffix(strings.TrimPrefix(c.URI, "test://template/"), "/data")
				if !ok {
					return nil, errors.New("no such template")
				}
				c.Text = fmt.Sprintf(`{"id":%q,"templateTest":true,"data":"Data for ID: %s"}`, id, id)
			}
			return &sdk.ReadResourceResult{Contents: []*sdk.ResourceContents{&c}}, nil
		}
	}
	text := sdk.ResourceContents{MIMEType: "text/plain", Text: "text"}
	server.AddResource(&sdk.Resource{Name: "static-text", URI: "test://static-text", MIMEType: "text/plain"}, read(text))
	server.AddResource(&sdk.Resource{Name: "static-binary", URI: "test://static-binary", MIMEType: "image/png"},
		read(sdk.ResourceContents{MIMEType: "image/png", Blob: fixtureImage}))
	server.AddResource(&sdk.Resource{Name: "watched", URI: "test://watched-resource", MIMEType: "text/plain"}, read(text))
	server.AddResourceTemplate(&sdk.ResourceTemplate{Name: "template", URITemplate: "test://template/{id}/data", MIMEType: "application/json"},
		read(sdk.ResourceContents{MIMEType: "application/json"}))
}

// fixtureSchema has what of JSON Schema 2020-12 the suite looks for.
const fixtureSchema = `{
	"$schema": "https://json-schema.org/draft/2020-12/schema",
	"type": "object",
	"$defs": {"address": {"$anchor": "addressDef", "type": "object",
		"properties": {"street": {"type": "string"}, "city": {"type": "string"}}}},
	"properties": {
		"name": {"type": "string"},
		"address": {"$ref": "#/$defs/address"},
		"contactMethod": {"type": "string", "enum": ["phone", "email"]},
		"phone": {"type": "string"},
		"email": {"type": "string"}
	},
	"allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
	"if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
	"then": {"required": ["phone"]},
	"else": {"required": ["email"]},
	"additionalProperties": false
}`
