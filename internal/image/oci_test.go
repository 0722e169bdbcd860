package image_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/gzip"

	"github.com/aethervm/aether/internal/image"
	"github.com/aethervm/aether/sandbox"
)

// layered makes an OCI image of layers, lowest first, for an architecture.
func layered(t testing.TB, arch string, layers ...[]tar.Header) v1.Image {
	t.Helper()
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: arch,
		Config: v1.Config{Env: []string{"PATH=/opt/bin:/bin", "LANG=C.UTF-8", "=broken"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, entries := range layers {
		raw := archive(t, entries...)
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			t.Fatal(err)
		}
	}
	return img
}

// writeLayout writes images to an OCI layout, each for its platform.
func writeLayout(t testing.TB, images ...v1.Image) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range images {
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		platform := v1.Platform{OS: config.OS, Architecture: config.Architecture}
		if err := p.AppendImage(img, layout.WithPlatform(platform)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLayers(t *testing.T) {
	for _, c := range []struct {
		name   string
		layers [][]tar.Header
		want   []string
	}{
		{"file replaced", [][]tar.Header{{file("f", "old")}, {file("f", "new")}}, []string{"f = new"}},
		{"whiteout", [][]tar.Header{{file("d/a", "a"), file("d/b", "b")}, {file("d/.wh.a", "")}}, []string{"d/", "d/b = b"}},
		{"whiteout of a directory", [][]tar.Header{{file("d/a", "a"), file("e", "e")}, {file(".wh.d", "")}}, []string{"e = e"}},
		{"whiteout of nothing", [][]tar.Header{{file("e", "e")}, {file("x/.wh.d", "")}}, []string{"e = e", "x/"}},
		{"whiteout and new file", [][]tar.Header{{file("a", "old")}, {file("a", "new"), file(".wh.a", "")}}, []string{"a = new"}},
		{"opaque, first", [][]tar.Header{{file("d/a", "a"), file("d/e/f", "f")}, {dir("d", 0o755), file("d/.wh..wh..opq", ""), file("d/b", "b")}},
			[]string{"d/", "d/b = b"}},
		{"opaque, last", [][]tar.Header{{file("d/a", "a"), file("d/e/f", "f")}, {dir("d", 0o755), file("d/e/g", "g"), file("d/.wh..wh..opq", "")}},
			[]string{"d/", "d/e/", "d/e/g = g"}},
		{"union file system's own", [][]tar.Header{{file("a", "a")}, {file(".wh..wh.plnk/1.2", "x"), file(".wh..wh.aufs", "")}}, []string{".wh..wh.plnk/", ".wh..wh.plnk/1.2 = x", "a = a"}},
		{"file under a link of a lower layer", [][]tar.Header{{dir("usr/lib", 0o755), symlink("lib", "usr/lib")}, {file("lib/x", "x")}},
			[]string{"lib -> usr/lib", "usr/", "usr/lib/", "usr/lib/x = x"}},
		{"file under an absolute link", [][]tar.Header{{dir("run", 0o755), symlink("var/run", "/run")}, {file("var/run/x", "x")}},
			[]string{"run/", "run/x = x", "var/", "var/run -> /run"}},
		{"hard link to a lower layer", [][]tar.Header{{file("a", "a")}, {hardlink("b", "a")}}, []string{"a = a", "b = a"}},
		{"link that leads above the root", [][]tar.Header{{dir("d", 0o755)}, {symlink("d/l", "../../../etc"), file("d/l/x", "x")}},
			[]string{"d/", "d/l -> ../../../etc", "etc/", "etc/x = x"}},
		{"whiteout above the root", [][]tar.Header{{file("a", "a")}, {file("d/.wh...", "")}}, nil},
		{"whiteout of itself", [][]tar.Header{{file("a", "a")}, {file("d/.wh..", "")}}, nil},
		{"whiteout without a name", [][]tar.Header{{file("a", "a")}, {file("d/.wh.", "")}}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t)
			_, err := s.Build(t.Context(), "x", writeLayout(t, layered(t, "amd64", c.layers...)), nil)
			if c.want == nil {
				if !errors.Is(err, sandbox.ErrInvalid) {
					t.Errorf("Build: %v; want an invalid image", err)
				}
				wantEmpty(t, s)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			wantTree(t, s, "x", c.want...)
		})
	}
}

func TestImageSources(t *testing.T) {
	img := layered(t, "amd64", sample(), []tar.Header{file("bin/.wh.tool2", ""), file("etc/issue", "hello")})
	arm := layered(t, "arm64", []tar.Header{file("wrong", "x")})
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: arm, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}},
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})

	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	single, err := name.ParseReference(host + "/one:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(single, img); err != nil {
		t.Fatal(err)
	}
	multi, err := name.ParseReference(host + "/many:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(multi, index); err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("example/one:v1")
	if err != nil {
		t.Fatal(err)
	}
	saved := filepath.Join(t.TempDir(), "saved.tar")
	if err := tarball.WriteToFile(saved, tag, img); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(saved)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	zw := gzip.NewWriter(&packed)
	if _, err := zw.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	both := writeLayout(t, arm, img)
	nested := filepath.Join(t.TempDir(), "nested")
	p, err := layout.Write(nested, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendIndex(index); err != nil {
		t.Fatal(err)
	}
	var ociTar bytes.Buffer
	tw := tar.NewWriter(&ociTar)
	if err := tw.AddFS(os.DirFS(both)); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}

	s := newStore(t)
	want := ""
	for _, c := range []struct{ name, source string }{
		{"layout", writeLayout(t, img)},
		{"layout-platforms", both},
		{"layout-nested", nested},
		{"layout-tar", save(t, "oci.tar", ociTar.Bytes())},
		{"docker-archive", saved},
		{"docker-archive-gzip", save(t, "saved.tgz", packed.Bytes())},
		{"registry", host + "/one:v1"},
		{"registry-platforms", host + "/many:v1"},
	} {
		e, err := s.Build(t.Context(), c.name, c.source, nil)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if want == "" {
			want = e.Digest
		}
		if e.Digest != want {
			t.Errorf("%s: digest %s, want %s", c.name, e.Digest, want)
		}
		got, err := s.Resolve(c.name)
		if err != nil || strings.Join(got.Env, " ") != "PATH=/opt/bin:/bin LANG=C.UTF-8" {
			t.Errorf("%s: environment %q, %v", c.name, got.Env, err)
		}
	}
	wantNoRest(t, s)
	if list, err := s.List(); err != nil || len(list) != 1 || len(list[0].Notes) != 1 {
		t.Errorf("List = %+v, %v; want one image with a note about its environment", list, err)
	}
	if got, err := s.Resolve("layout"); err == nil {
		if _, err := os.Lstat(filepath.Join(got.Rootfs, "bin/tool2")); err == nil {
			t.Error("a whiteout did not count")
		}
	}

	// What cannot be had.
	for _, c := range []struct {
		source string
		want   error
	}{
		{writeLayout(t, arm), sandbox.ErrUnsupported},
		{writeLayout(t), sandbox.ErrUnsupported},
		{writeLayout(t, img, layered(t, "amd64", []tar.Header{file("a", "a")})), sandbox.ErrUnsupported},
		{"NOT a reference", sandbox.ErrInvalid},
	} {
		if _, err := s.Build(t.Context(), "x", c.source, nil); !errors.Is(err, c.want) {
			t.Errorf("%s: %v; want %v", c.source, err, c.want)
		}
	}
	if _, err := s.Build(t.Context(), "x", host+"/none:v1", nil); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("unknown repository: %v", err)
	}
	wantNoRest(t, s)
}

func TestEnvironmentIsPartOfTheDigest(t *testing.T) {
	s := newStore(t)
	entries := []tar.Header{dir(".", 0o755), file("f", "x")}
	bare := build(t, s, "bare", save(t, "x.tar", archive(t, entries...)))
	env := build(t, s, "env", writeLayout(t, layered(t, "amd64", entries)))
	if bare.Digest == env.Digest {
		t.Error("two images that differ in their environment are one")
	}
	if img, err := s.Resolve("bare"); err != nil || len(img.Env) != 0 {
		t.Errorf("environment %q, %v", img.Env, err)
	}
}

func TestDamagedLayout(t *testing.T) {
	for _, c := range []struct {
		name string
		harm func(t *testing.T, blobs string, img v1.Image)
	}{
		{"layer changed", func(t *testing.T, blobs string, img v1.Image) {
			other := layered(t, "amd64", []tar.Header{file("f", "evil")})
			from, err := other.Layers()
			if err != nil {
				t.Fatal(err)
			}
			r, err := from[0].Compressed()
			if err != nil {
				t.Fatal(err)
			}
			raw, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			overwrite(t, blobs, firstLayer(t, img), raw)
		}},
		{"layer missing", func(t *testing.T, blobs string, img v1.Image) {
			if err := os.Remove(filepath.Join(blobs, firstLayer(t, img).Hex)); err != nil {
				t.Fatal(err)
			}
		}},
		{"layer is a link out", func(t *testing.T, blobs string, img v1.Image) {
			name := filepath.Join(blobs, firstLayer(t, img).Hex)
			if err := errors.Join(os.Remove(name), os.Symlink("/etc/passwd", name)); err != nil {
				t.Fatal(err)
			}
		}},
		{"configuration changed", func(t *testing.T, blobs string, img v1.Image) {
			h, err := img.ConfigName()
			if err != nil {
				t.Fatal(err)
			}
			overwrite(t, blobs, h, []byte(`{"os":"linux","architecture":"amd64"}`))
		}},
		{"manifest changed", func(t *testing.T, blobs string, img v1.Image) {
			h, err := img.Digest()
			if err != nil {
				t.Fatal(err)
			}
			overwrite(t, blobs, h, []byte(`{}`))
		}},
		{"index garbage", func(t *testing.T, blobs string, _ v1.Image) {
			if err := os.WriteFile(filepath.Join(blobs, "../../index.json"), []byte("garbage"), 0o644); err != nil {
				t.Fatal(err)
			}
		}},
		{"index too large", func(t *testing.T, blobs string, _ v1.Image) {
			if err := os.Truncate(filepath.Join(blobs, "../../index.json"), 1<<40); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			img := layered(t, "amd64", []tar.Header{file("f", "good")})
			dir := writeLayout(t, img)
			c.harm(t, filepath.Join(dir, "blobs/sha256"), img)
			s := newStore(t)
			if _, err := s.Build(t.Context(), "x", dir, nil); !errors.Is(err, sandbox.ErrInvalid) {
				t.Errorf("Build: %v; want an invalid source", err)
			}
			wantEmpty(t, s)
		})
	}
}

func firstLayer(t *testing.T, img v1.Image) v1.Hash {
	t.Helper()
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	return m.Layers[0].Digest
}

func overwrite(t *testing.T, blobs string, h v1.Hash, raw []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(blobs, h.Hex), raw, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestForeignArchiveNamesCannotReachTheHost(t *testing.T) {
	// A `docker save` archive whose manifest names files of the host, and one that links to them.
	config := `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}`
	for _, manifest := range []string{
		`[{"Config":"/etc/passwd","Layers":[]}]`,
		`[{"Config":"../../../../../../etc/passwd","Layers":[]}]`,
		`[{"Config":"aaaaaaaaaaaa.json","Layers":["/etc/passwd"]}]`,
		`[]`,
		`{}`,
	} {
		raw := archive(t, file("aaaaaaaaaaaa.json", config), file("manifest.json", manifest))
		s := newStore(t)
		_, err := s.Build(t.Context(), "x", save(t, "x.tar", raw), nil)
		if !errors.Is(err, sandbox.ErrInvalid) && !errors.Is(err, sandbox.ErrUnsupported) {
			t.Errorf("%s: %v", manifest, err)
		}
		wantEmpty(t, s)
	}
	link := archive(t, symlink("aaaaaaaaaaaa.json", "/etc/passwd"), file("manifest.json", `[{"Config":"aaaaaaaaaaaa.json","Layers":[]}]`))
	s := image.Open(filepath.Join(t.TempDir(), "images"))
	if _, err := s.Build(t.Context(), "x", save(t, "x.tar", link), nil); !errors.Is(err, sandbox.ErrInvalid) {
		t.Errorf("link to a file of the host: %v", err)
	}
}
