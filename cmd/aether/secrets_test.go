package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aethervm/aether/internal/runtime"
)

func TestSecretFlag(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("from-a-file\n")
	t.Setenv("AETHER_TEST_TOKEN", "from-a-variable")
	for _, c := range []struct {
		text, id, value string
		want            runtime.Secret
	}{
		{"host=api.example.com,src=" + file, "secret-1", "from-a-file", runtime.Secret{Host: "api.example.com", Header: "Authorization", Prefix: "Bearer "}},
		{"id=a,host=api.example.com:8443,env=AETHER_TEST_TOKEN,header=X-Api-Key,plain", "a", "from-a-variable",
			runtime.Secret{Host: "api.example.com", Port: 8443, Plain: true, Header: "X-Api-Key"}},
		{"host=h.example,src=" + file + `,"prefix=Key, "`, "secret-1", "from-a-file", runtime.Secret{Host: "h.example", Header: "Authorization", Prefix: "Key, "}},
	} {
		list, err := parseSecrets([]string{c.text}, false)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		got := list[c.id]
		if got.Value == nil {
			t.Errorf("%s: %+v", c.text, list)
			continue
		}
		if value, err := got.Value(t.Context()); err != nil || value != c.value {
			t.Errorf("%s: %q, %v", c.text, value, err)
		}
		if got.Value = nil; got.Host != c.want.Host || got.Port != c.want.Port || got.Plain != c.want.Plain || got.Header != c.want.Header || got.Prefix != c.want.Prefix {
			t.Errorf("%s: %+v", c.text, got)
		}
	}
	list, err := parseSecrets([]string{"host=h.example,src=" + file}, false)
	if err != nil {
		t.Fatal(err)
	}
	write("another-one")
	if value, err := list["secret-1"].Value(t.Context()); err != nil || value != "another-one" {
		t.Errorf("a file that was changed: %q, %v", value, err)
	}
}

// TestSecretFlagIsNotRepeated has errors say nothing of what somebody took for the place of a credential.
func TestSecretFlagIsNotRepeated(t *testing.T) {
	const credential = "sk-s3cr3t"
	for _, texts := range [][]string{
		{credential}, {"host=h.example," + credential}, {"host=h.example:" + credential + ",env=HOME"}, {"host=h.example"}, {`"`},
		{"src=/dev/null"}, {"host=h.example,src=/dev/null,env=HOME"}, {"host=h.example,env=AETHER_TEST_UNSET"},
		{"id=a,host=h.example,src=/dev/null", "id=a,host=i.example,src=/dev/null"}, {"host=h.example,src=/nowhere"}, {"host=h.example,src=/dev/zero"},
	} {
		_, err := parseSecrets(texts, false)
		if err == nil || strings.Contains(err.Error(), credential) {
			t.Errorf("%q: %v", texts, err)
		}
	}
	if _, err := parseSecrets([]string{"host=h.example,src=/dev/null"}, true); err == nil {
		t.Error("a server's secret without an id")
	}
	for _, text := range []string{"", "a,b", "host=h.example"} {
		if uses, err := parseSecretUses([]string{text}); err == nil {
			t.Errorf("%q: %+v", text, uses)
		}
	}
	uses, err := parseSecretUses([]string{"a", "b,fork"})
	if err != nil || len(uses) != 2 || uses[0] != (runtime.SecretUse{Name: "a"}) || uses[1] != (runtime.SecretUse{Name: "b", Fork: true}) {
		t.Errorf("%+v, %v", uses, err)
	}
}
