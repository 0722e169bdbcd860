package boot

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

func TestAMLPackageLength(t *testing.T) {
	for _, tc := range []struct {
		body   int
		prefix string
	}{
		{0, "01"},
		{62, "3f"},
		{63, "4104"},     // 65 = 4<<4 | 1
		{4093, "4fff"},   // 4095, the most that two bytes can say
		{4094, "810001"}, // 4097
		{1<<20 - 4, "8fffff"},
		{1<<20 - 3, "c1000001"},
	} {
		body := bytes.Repeat([]byte{0xee}, tc.body)
		got := amlPackageLength(body)
		prefix := got[:len(got)-tc.body]
		if hex.EncodeToString(prefix) != tc.prefix || !bytes.Equal(got[len(prefix):], body) {
			t.Errorf("body of %d bytes: prefix %x, want %s", tc.body, prefix, tc.prefix)
		}
		if n := decodePackageLength(prefix); n != len(got) {
			t.Errorf("body of %d bytes: the prefix says %d, all are %d", tc.body, n, len(got))
		}
	}
}

func decodePackageLength(p []byte) int {
	follow := int(p[0] >> 6)
	if follow == 0 {
		return int(p[0])
	}
	n := int(p[0] & 0xf)
	for i := range follow {
		n |= int(p[1+i]) << (4 + 8*i)
	}
	return n
}

func TestAMLTerms(t *testing.T) {
	for _, tc := range []struct {
		name string
		got  []byte
		want string
	}{
		{"zero", amlInteger(0), "00"},
		{"one", amlInteger(1), "01"},
		{"byte", amlInteger(2), "0a02"},
		{"largest byte", amlInteger(0xff), "0aff"},
		{"word", amlInteger(0x100), "0b0001"},
		{"double word", amlInteger(0x12345678), "0c78563412"},
		{"quad word", amlInteger(0x123456789), "0e8967452301000000"},
		{"string", amlString("ab"), "0d616200"},
		{"EISA ID", amlEISAID("PNP0501"), "0c41d00501"},
		{"EISA ID with letters", amlEISAID("ACPABCD"), "0c0470abcd"},
		{"short path", amlPath("_SB"), "5f53425f"},
		{"name", amlNamed("ADDR", amlInteger(1)), "084144445201"},
		{"package", amlPackageOf(amlInteger(5), amlInteger(0)), "1205020a0500"},
		{"buffer", amlBufferOf([]byte{1, 2, 3}), "11060a03010203"},
		{"scope", amlInScope("_SB"), "10055f53425f"},
		{"device", amlDeviceOf("COM1"), "5b8205434f4d31"},
		{"method", amlMethodOf("_EVT", 1, amlIfArg0(5, amlNotifyOf("VGEN", 0x80))),
			"14135f45565409a00c93680a05865647454e0a80"},
		{"memory", resourceMemory(0xd0000000, 0x1000), "86090001000000d000100000"},
		{"interrupt", resourceInterrupt(6), "890600030106000000"},
		{"ports", resourcePorts(0x3f8, 8), "4701f803f8030108"},
		{"resources", amlResources(), "11050a027900"},
	} {
		if got := hex.EncodeToString(tc.got); got != strings.ReplaceAll(tc.want, " ", "") {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}
