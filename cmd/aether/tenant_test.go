package main

import (
	"path/filepath"
	"reflect"
	"testing"
	"time"

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

func TestDefaultBudget(t *testing.T) {
	t.Setenv("AETHER_STATE", filepath.Join(t.TempDir(), "not", "yet"))
	if b := defaultBudget(); b.Sandboxes == 0 || b.MemoryMiB == 0 || b.Snapshots == 0 || b.Templates == 0 || b.KeptBytes < 1<<20 {
		t.Errorf("%+v", b)
	}
}
