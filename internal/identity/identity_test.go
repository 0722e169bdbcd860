package identity

import (
	"testing"

	"github.com/aethervm/aether/internal/testenv"
)

func TestUsersDiffer(t *testing.T) {
	testenv.Root(t)
	seen := map[uint32]bool{}
	for range 50 {
		id, err := Take()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(id.Release)
		if uid := id.UID(); seen[uid] || uid < first || uid >= first+count {
			t.Errorf("user %d was handed out twice, or is none of the range", uid)
		}
		seen[id.UID()] = true
	}
}

func TestNoIdentity(t *testing.T) {
	var none *Identity
	none.Release()
	_ = none.UID()
}

func TestReleaseTwice(t *testing.T) {
	testenv.Root(t)
	id, err := Take()
	if err != nil {
		t.Fatal(err)
	}
	id.Release()
	id.Release()
}
