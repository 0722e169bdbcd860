package rest

import (
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"slices"

	"github.com/aethervm/aether/internal/runtime"
)

// cursors seals positions in listings. A position in the audit log would tell how much other tenants do; what is sealed
// tells nothing, and nobody can make one up. The key goes with the process, so a cursor is good until then.
type cursors struct{ aead cipher.AEAD }

// maxCursor bounds a cursor that a client sends, in characters.
const maxCursor = 1024

func newCursors() *cursors {
	key := make([]byte, 32)
	rand.Read(key) // never fails: crypto/rand ends the process instead
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // the key has the size of a key
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return &cursors{aead}
}

// seal makes a cursor of a position in a listing of a tenant.
func (c *cursors) seal(listing, tenant, position string) string {
	return base64.RawURLEncoding.EncodeToString(c.aead.Seal(nil, nil, []byte(position), []byte(listing+"\x00"+tenant)))
}

// open is the position of a cursor of the same listing and tenant.
func (c *cursors) open(listing, tenant, cursor string) (string, error) {
	if len(cursor) <= maxCursor {
		if raw, err := base64.RawURLEncoding.DecodeString(cursor); err == nil {
			if position, err := c.aead.Open(nil, nil, raw, []byte(listing+"\x00"+tenant)); err == nil {
				return string(position), nil
			}
		}
	}
	return "", refuse(runtime.CodeInvalid, "list", "begin again without one", "the cursor is none of this listing, or of a server that has ended")
}

// Page is the part of a listing that a request asks for.
type Page struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"how many at most"`
	Cursor string `query:"cursor" maxLength:"1024" doc:"next of the page before; it is good until the server ends"`
}

// page cuts what p asks for out of a whole listing. key gives each a position, which stays while it is there, and in
// whose order they are shown.
func page[T any](c *cursors, listing, tenant string, p Page, list []T, key func(T) string) (part []T, next string, err error) {
	slices.SortStableFunc(list, func(a, b T) int { return cmp.Compare(key(a), key(b)) })
	if p.Cursor != "" {
		after, err := c.open(listing, tenant, p.Cursor)
		if err != nil {
			return nil, "", err
		}
		from, _ := slices.BinarySearchFunc(list, after, func(item T, after string) int {
			if key(item) <= after {
				return -1
			}
			return 1
		})
		list = list[from:]
	}
	if len(list) > p.Limit {
		list = list[:p.Limit]
		next = c.seal(listing, tenant, key(list[len(list)-1]))
	}
	if list == nil {
		list = []T{} // a list, where null would be none
	}
	return list, next, nil
}
