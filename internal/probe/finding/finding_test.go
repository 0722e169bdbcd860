package finding

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestDecode(t *testing.T) {
	want := []Finding{
		{Name: "a.b", Value: "3 of 7", Verdict: Worse, Detail: "why", Items: []string{"bpf", "mount"}},
		{Name: "c", Value: "none", Verdict: Better},
	}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(strings.NewReader(string(text)))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	many := func(n int, f func(int) string) string {
		parts := make([]string, n)
		for i := range parts {
			parts[i] = f(i)
		}
		return strings.Join(parts, ",")
	}
	for name, text := range map[string]string{
		"empty":         "",
		"object":        `{"name":"a"}`,
		"no name":       `[{"finding":"x","verdict":"better"}]`,
		"bad name":      `[{"name":"a\u001b[2J","verdict":"better"}]`,
		"bad verdict":   `[{"name":"a","verdict":"best"}]`,
		"twice":         `[{"name":"a","verdict":"better"},{"name":"a","verdict":"worse"}]`,
		"trailing":      `[]{}`,
		"too large":     "[" + strings.Repeat(" ", MaxBytes) + "]",
		"many findings": "[" + many(maxFindings+1, func(i int) string { return fmt.Sprintf(`{"name":"n%d","verdict":"better"}`, i) }) + "]",
		"many items":    `[{"name":"a","verdict":"better","items":[` + many(maxItems+1, func(int) string { return `"x"` }) + `]}]`,
	} {
		if _, err := Decode(strings.NewReader(text)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDecodeCleans(t *testing.T) {
	got, err := Decode(strings.NewReader(`[{"name":"a","finding":"\u001b[31mred\u0007","verdict":"worse","detail":"` + strings.Repeat("é", maxText) + `"}]`))
	if err != nil {
		t.Fatal(err)
	}
	if got[0].Value != "?[31mred?" {
		t.Errorf("value %q", got[0].Value)
	}
	if d := got[0].Detail; len(d) != maxText || !utf8.ValidString(d) {
		t.Errorf("detail of %d bytes, valid %v", len(d), utf8.ValidString(d))
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(`[{"name":"a","finding":"x","verdict":"worse","detail":"d","items":["i"]}]`)
	f.Add(`[{"name":"a","finding":"\ud800\u202e","verdict":"unknown"}]`)
	f.Add(strings.Repeat("[", 20000))
	f.Fuzz(func(t *testing.T, text string) {
		list, err := Decode(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, x := range list {
			for _, s := range append([]string{x.Name, x.Value, x.Detail}, x.Items...) {
				if len(s) > maxText || !utf8.ValidString(s) || strings.ContainsAny(s, "\x1b\n\x00") {
					t.Fatalf("%q came through", s)
				}
			}
		}
		again, err := json.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := Decode(strings.NewReader(string(again))); err == nil && !reflect.DeepEqual(back, list) {
			t.Fatalf("%+v\n%+v", back, list)
		}
	})
}
