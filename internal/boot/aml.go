package boot

import (
	"encoding/binary"
	"slices"
)

// An encoder for the part of AML, the byte code of ACPI, that the tables need. Every function
// returns the encoding of one term; terms nest by concatenation. ACPI 6.5, section 20.2.

const (
	amlZero      = 0x00
	amlOne       = 0x01
	amlName      = 0x08
	amlByte      = 0x0a
	amlWord      = 0x0b
	amlDWord     = 0x0c
	amlText      = 0x0d
	amlQWord     = 0x0e
	amlScope     = 0x10
	amlBuffer    = 0x11
	amlPackage   = 0x12
	amlMethod    = 0x14
	amlExtPrefix = 0x5b
	amlArg0      = 0x68
	amlNotify    = 0x86
	amlLEqual    = 0x93
	amlIf        = 0xa0
	amlDevice    = 0x82 // after amlExtPrefix
)

// amlPackageLength prefixes a body with its length, which counts the prefix itself. Up to 63 it is
// one byte; else the first byte has the number of bytes that follow and the lowest four bits.
func amlPackageLength(body []byte) []byte {
	n := len(body) + 1
	if n < 1<<6 {
		return append([]byte{byte(n)}, body...)
	}
	follow := 1
	for n = len(body) + 2; n >= 1<<(4+8*follow); n++ {
		follow++
	}
	prefix := []byte{byte(follow<<6 | n&0xf)}
	for rest := n >> 4; len(prefix) <= follow; rest >>= 8 {
		prefix = append(prefix, byte(rest))
	}
	return append(prefix, body...)
}

// amlPath is a name of up to four characters, padded with underscores, in the current scope.
func amlPath(name string) []byte { return []byte((name + "____")[:4]) }

func amlInteger(v uint64) []byte {
	le := binary.LittleEndian
	switch {
	case v == 0:
		return []byte{amlZero}
	case v == 1:
		return []byte{amlOne}
	case v < 1<<8:
		return []byte{amlByte, byte(v)}
	case v < 1<<16:
		return le.AppendUint16([]byte{amlWord}, uint16(v))
	case v < 1<<32:
		return le.AppendUint32([]byte{amlDWord}, uint32(v))
	}
	return le.AppendUint64([]byte{amlQWord}, v)
}

func amlString(s string) []byte {
	return append(append([]byte{amlText}, s...), 0)
}

// amlEISAID is an ID of three letters and four hexadecimal digits, packed into 32 bits, which are
// stored with the highest byte first.
func amlEISAID(id string) []byte {
	v := uint32(id[0]-'@')<<26 | uint32(id[1]-'@')<<21 | uint32(id[2]-'@')<<16
	for i, shift := range []int{12, 8, 4, 0} {
		digit := uint32(id[3+i] - '0')
		if digit > 9 {
			digit = uint32(id[3+i]-'A') + 10
		}
		v |= digit << shift
	}
	return binary.BigEndian.AppendUint32([]byte{amlDWord}, v)
}

// amlNamed defines an object's name and value.
func amlNamed(name string, value []byte) []byte {
	return slices.Concat([]byte{amlName}, amlPath(name), value)
}

func amlPackageOf(elements ...[]byte) []byte {
	body := append([]byte{byte(len(elements))}, slices.Concat(elements...)...)
	return append([]byte{amlPackage}, amlPackageLength(body)...)
}

func amlBufferOf(data []byte) []byte {
	return append([]byte{amlBuffer}, amlPackageLength(append(amlInteger(uint64(len(data))), data...))...)
}

func amlInScope(path string, terms ...[]byte) []byte {
	body := append(amlPath(path), slices.Concat(terms...)...)
	return append([]byte{amlScope}, amlPackageLength(body)...)
}

func amlDeviceOf(name string, terms ...[]byte) []byte {
	body := append(amlPath(name), slices.Concat(terms...)...)
	return append([]byte{amlExtPrefix, amlDevice}, amlPackageLength(body)...)
}

// amlSerialized marks a method that runs once at a time.
const amlSerialized = 1 << 3

func amlMethodOf(name string, args int, terms ...[]byte) []byte {
	body := slices.Concat(amlPath(name), []byte{byte(args) | amlSerialized}, slices.Concat(terms...))
	return append([]byte{amlMethod}, amlPackageLength(body)...)
}

// amlIfArg0 runs the terms if a method's first argument is v.
func amlIfArg0(v uint64, terms ...[]byte) []byte {
	body := slices.Concat([]byte{amlLEqual, amlArg0}, amlInteger(v), slices.Concat(terms...))
	return append([]byte{amlIf}, amlPackageLength(body)...)
}

func amlNotifyOf(name string, v uint64) []byte {
	return slices.Concat([]byte{amlNotify}, amlPath(name), amlInteger(v))
}

// amlResources is what _CRS names: descriptors, in a buffer. ACPI 6.5, section 6.4. The end tag's
// checksum of zero means that there is none.
func amlResources(descriptors ...[]byte) []byte {
	return amlBufferOf(append(slices.Concat(descriptors...), 0x79, 0))
}

// resourceMemory is a fixed, writable range of addresses below 4 GiB.
func resourceMemory(base, size uint32) []byte {
	d := []byte{0x86, 9, 0, 1}
	d = binary.LittleEndian.AppendUint32(d, base)
	return binary.LittleEndian.AppendUint32(d, size)
}

// resourceInterrupt is a GSI: consumed, edge triggered, active high, exclusive.
func resourceInterrupt(gsi uint32) []byte {
	return binary.LittleEndian.AppendUint32([]byte{0x89, 6, 0, 1<<0 | 1<<1, 1}, gsi)
}

// resourcePorts is a fixed range of I/O ports, all 16 address bits of which are decoded.
func resourcePorts(first uint16, count uint8) []byte {
	d := []byte{0x47, 1}
	d = binary.LittleEndian.AppendUint16(d, first)
	d = binary.LittleEndian.AppendUint16(d, first)
	return append(d, 1, count)
}
