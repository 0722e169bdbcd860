package main

import (
	"math"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/aethervm/aether/internal/runtime"
)

// A budget goes there and back whole, whatever resources there are.
func TestBudgetFlag(t *testing.T) {
	var b runtime.Budget
	v := reflect.ValueOf(&b).Elem()
	for i := range v.NumField() {
		v.Field(i).SetInt(int64(i+1) * int64(time.Second))
	}
	var got budgetFlag
	if err := got.Set(budgetText(b)); err != nil || got.budget != b {
		t.Errorf("%s: %+v, %v", budgetText(b), got.budget, err)
	}
}

// The default is of the disk of the state directory.
func TestDefaultBudget(t *testing.T) {
	if b := defaultBudget("/proc/self"); b.KeptBytes != 0 { // which is on no disk
		t.Errorf("%+v", b)
	}
	if b := defaultBudget(filepath.Join(t.TempDir(), "not", "yet")); b.Sandboxes == 0 || b.MemoryMiB == 0 || b.Snapshots == 0 || b.Templates == 0 || b.KeptBytes < 1<<20 {
		t.Errorf("%+v", b)
	}
}

func TestDiskBytes(t *testing.T) {
	for _, c := range []struct {
		st   unix.Statfs_t
		want int64
	}{
		{unix.Statfs_t{Blocks: 10, Bsize: 1 << 20, Frsize: 4096}, 40960},
		{unix.Statfs_t{Blocks: 10, Bsize: 512}, 5120},
		{unix.Statfs_t{Blocks: 10}, 0},
		{unix.Statfs_t{Blocks: 1 << 63, Frsize: 4096}, math.MaxInt64 / 4096 * 4096},
	} {
		if got := diskBytes(&c.st); got != c.want {
			t.Errorf("%+v: %d, want %d", c.st, got, c.want)
		}
	}
}
