package rest

import (
	"reflect"
	"testing"
	"time"

	"github.com/aethervm/aether/internal/runtime"
)

// A budget goes there and back whole, whatever resources there are.
func TestBudgetOf(t *testing.T) {
	var b runtime.Budget
	v := reflect.ValueOf(&b).Elem()
	for i := range v.NumField() {
		v.Field(i).SetInt(int64(i+1) * int64(time.Second))
	}
	if got := BudgetOf(b).Runtime(); got != b {
		t.Errorf("%+v, want %+v", got, b)
	}
}
