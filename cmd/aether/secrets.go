package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/aethervm/aether/internal/runtime"
)

const (
	// maxSecretFile bounds the file of a credential, in bytes.
	maxSecretFile = 64 << 10
	secretSyntax  = "host=NAME,src=FILE"
	secretRemedy  = "as in --secret host=api.github.com,src=token.txt, or env=VARIABLE in place of src=FILE; then, if need be, header=NAME, prefix=TEXT, plain"
)

// parseSecrets reads the values of --secret. Names of those without id= are made up, where that may be left out. No error
// has more of a value than a file's or a variable's name: somebody may have written the credential there.
func parseSecrets(values []string, needID bool) (map[string]runtime.Secret, error) {
	secrets := map[string]runtime.Secret{}
	for i, text := range values {
		id, secret, err := parseSecret(text)
		if err != nil {
			return nil, usageError(secretRemedy, "--secret, number %d: %v", i+1, err)
		}
		if id == "" && needID {
			return nil, usageError("add id=NAME, by which sandboxes ask for it", "--secret, number %d, has no id", i+1)
		}
		if id == "" {
			id = "secret-" + strconv.Itoa(i+1)
		}
		if _, ok := secrets[id]; ok {
			return nil, usageError("give each an id of its own", "--secret, number %d, has the id of another one", i+1)
		}
		secrets[id] = secret
	}
	return secrets, nil
}

func parseSecret(text string) (id string, s runtime.Secret, err error) {
	parts, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return "", s, errors.New("it is no list of parts with commas between them")
	}
	var file, variable, prefix string
	hasPrefix := false
	for _, part := range parts {
		key, value, _ := strings.Cut(part, "=")
		switch key {
		case "id":
			id = value
		case "host":
			if s.Host, s.Port, err = parseHostPort(value); err != nil {
				return "", s, err
			}
		case "src":
			file = value
		case "env":
			variable = value
		case "header":
			s.Header = value
		case "prefix":
			prefix, hasPrefix = value, true
		case "plain":
			s.Plain = true
		default:
			return "", s, errors.New("a part is none of id=, host=, src=, env=, header=, prefix= and plain")
		}
	}
	switch {
	case s.Host == "":
		return "", s, errors.New("it says no host=")
	case (file == "") == (variable == ""):
		return "", s, errors.New("it says not one of src= and env=")
	}
	if s.Header == "" {
		s.Header = "Authorization"
		if !hasPrefix {
			prefix = "Bearer "
		}
	}
	s.Prefix = prefix
	s.Value, err = credential(file, variable)
	return id, s, err
}

func parseHostPort(text string) (host string, port uint16, err error) {
	host, digits, ok := strings.Cut(text, ":")
	if !ok {
		return host, 0, nil
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || n == 0 {
		return "", 0, errors.New("the port of its host is no number from 1 to 65535")
	}
	return host, uint16(n), nil
}

// credential is what a file has, each time that it is asked for, or a variable now. It is tried once.
func credential(file, variable string) (func(context.Context) (string, error), error) {
	if variable != "" {
		value := os.Getenv(variable)
		if value == "" {
			return nil, fmt.Errorf("the variable %s is not set, or empty", variable)
		}
		return func(context.Context) (string, error) { return value, nil }, nil
	}
	path, err := filepath.Abs(file)
	if err != nil {
		return nil, err
	}
	read := func(context.Context) (string, error) {
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		text, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
		if err == nil && len(text) > maxSecretFile {
			err = fmt.Errorf("%s has more than %d bytes", path, maxSecretFile)
		}
		return strings.TrimSpace(string(text)), err
	}
	_, err = read(context.Background())
	return read, err
}

// parseSecretUses reads what asks for secrets that a server has: their ids, with ",fork" behind if forks are to have
// them too.
func parseSecretUses(values []string) ([]runtime.SecretUse, error) {
	var uses []runtime.SecretUse
	for _, text := range values {
		name, more, ok := strings.Cut(text, ",")
		if name == "" || ok && more != "fork" || strings.Contains(name, "=") {
			return nil, usageError("give the ID of one that `aether serve --secret` has, or ID,fork", "--secret takes no more than that here")
		}
		uses = append(uses, runtime.SecretUse{Name: name, Fork: ok})
	}
	return uses, nil
}

// secretUses asks for all of them.
func secretUses(secrets map[string]runtime.Secret) []runtime.SecretUse {
	var uses []runtime.SecretUse
	for _, name := range slices.Sorted(maps.Keys(secrets)) {
		uses = append(uses, runtime.SecretUse{Name: name})
	}
	return uses
}
