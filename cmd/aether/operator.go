package main

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// operatorToken is the token of whoever runs the server, for what is no tenant's: its metrics. It is kept in the file
// "operator-token" of the state directory, which only its owner can read; whoever removes the file, or puts another
// token of at least 32 characters there, has changed it from the next start on.
func (o serveOptions) operatorToken() (string, error) {
	file := filepath.Join(o.state, "operator-token")
	text, err := os.ReadFile(file)
	switch token := strings.TrimSpace(string(text)); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return "", failed(err, "", "read the operator's token: %v", err)
	case len(token) < 32:
		return "", failed(nil, "remove the file, or write a longer token there", "the operator's token in %s has fewer than 32 characters", file)
	default:
		return token, nil
	}
	var b [32]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	token := "aether_operator_" + base64.RawURLEncoding.EncodeToString(b[:])
	return token, writeSecret(file, token+"\n")
}
