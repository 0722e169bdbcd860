package mountinfo

import (
	"reflect"
	"testing"
)

func TestParse(t *testing.T) {
	m, ok := Parse(`36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 shared:2 - ext3 /dev/ro\134ot rw,errors=continue`)
	want := Mount{Root: "/mnt1", Point: "/mnt 2", Options: []string{"rw", "noatime"}, Type: "ext3", Source: `/dev/ro\ot`, SuperOptions: []string{"rw", "errors=continue"}}
	if !ok || !reflect.DeepEqual(m, want) {
		t.Errorf("%+v, %v", m, ok)
	}
	for _, bad := range []string{"", "1 2 3", "1 2 3 4 5 6 - ", "1 2 3 4 5 6 7 8"} {
		if _, ok := Parse(bad); ok {
			t.Errorf("accepted %q", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`36 35 98:0 /a /b\0402 rw shared:2 - ext3 /dev/root rw`)
	f.Add(`1 2 3 \ \1 \19 - a \777`)
	f.Fuzz(func(t *testing.T, line string) {
		if m, ok := Parse(line); ok && m.Type == "" {
			t.Fatalf("%+v", m)
		}
	})
}
