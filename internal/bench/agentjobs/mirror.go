package agentjobs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"path"
	"time"
)

// mirrorDir is where the mirror is in the sandbox, mirrorPort where it is served there, on the loopback interface.
const (
	mirrorDir  = "/srv/mirror"
	mirrorPort = 8462
)

// debian is a Debian package of the mirror: all that apt-get needs to find, check and install it.
type debian struct {
	name, depends string
	files         map[string]string // by absolute path
}

func packages() []debian {
	return []debian{
		{"aether-words", "python3", map[string]string{
			"/usr/lib/python3/dist-packages/aether_words.py": "def greeting():\n    return 'installed from the mirror'\n"}},
		{"aether-greeting", "aether-words (>= 1.0)", map[string]string{
			"/usr/bin/aether-greeting": "#!/usr/bin/python3\nimport aether_words\nprint(aether_words.greeting())\n"}},
	}
}

func (d debian) file() string { return d.name + "_1.0_all.deb" }

func (d debian) control() string {
	return fmt.Sprintf("Package: %s\nVersion: 1.0\nArchitecture: all\nMaintainer: aether <nobody@invalid>\n"+
		"Depends: %s\nDescription: made for a test\n", d.name, d.depends)
}

// build makes the package: an ar archive of a version, what dpkg wants to know, and the files.
func (d debian) build() ([]byte, error) {
	control, err := tarball(map[string]string{"/control": d.control()})
	if err != nil {
		return nil, err
	}
	data, err := tarball(d.files)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for _, member := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar.gz", control}, {"data.tar.gz", data}} {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", member.name, 0, 0, 0, "100644", len(member.data))
		b.Write(member.data)
		if len(member.data)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes(), nil
}

// tarball has the files with the directories above them.
func tarball(files map[string]string) ([]byte, error) {
	var b bytes.Buffer
	zip := gzip.NewWriter(&b)
	w := tar.NewWriter(zip)
	made := map[string]bool{"/": true}
	var dir func(string) error
	dir = func(name string) error {
		if made[name] {
			return nil
		}
		made[name] = true
		if err := dir(path.Dir(name)); err != nil {
			return err
		}
		return w.WriteHeader(&tar.Header{Name: "." + name + "/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(0, 0)})
	}
	for name, text := range files {
		if err := dir(path.Dir(name)); err != nil {
			return nil, err
		}
		head := &tar.Header{Name: "." + name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(text)), ModTime: time.Unix(0, 0)}
		if err := w.WriteHeader(head); err != nil {
			return nil, err
		}
		if _, err := w.Write([]byte(text)); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(w.Close(), zip.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// jobInstall puts a mirror into the sandbox, which has no network, serves it there, and has the image's own apt-get
// install from it.
func jobInstall(ctx context.Context, w *worker) error {
	box, err := w.box(ctx)
	if err != nil {
		return err
	}
	var index bytes.Buffer
	for _, d := range packages() {
		deb, err := d.build()
		if err != nil {
			return err
		}
		fmt.Fprintf(&index, "%sFilename: ./%s\nSize: %d\nSHA256: %s\n\n", d.control(), d.file(), len(deb), digest(deb))
		if _, err := w.client.Raw(ctx, "write", args{"sandbox": box, "path": mirrorDir + "/" + d.file(),
			"encoding": "base64", "text": base64.StdEncoding.EncodeToString(deb)}); err != nil {
			return err
		}
	}
	source := fmt.Sprintf("deb [trusted=yes] http://127.0.0.1:%d ./\n", mirrorPort)
	if err := errors.Join(w.write(ctx, box, mirrorDir+"/Packages", index.String()), w.write(ctx, box, "/srv/sources.list", source)); err != nil {
		return err
	}
	served, err := w.run(ctx, box, fmt.Sprintf("exec python3 -u -m http.server %d --bind 127.0.0.1 --directory %s", mirrorPort, mirrorDir),
		args{"background": true})
	if err != nil {
		return err
	}
	if p, err := w.until(ctx, served.Process, 0); err != nil {
		return err
	} else if !p.Running {
		return fmt.Errorf("the mirror is not served: %.300s", p.Stderr.Text)
	}
	// Sandboxes have no user for apt to become, and nothing to ask.
	const apt = "DEBIAN_FRONTEND=noninteractive apt-get -o Dir::Etc::SourceList=/srv/sources.list -o Dir::Etc::SourceParts=/dev/null " +
		"-o APT::Sandbox::User=root -o Acquire::Languages=none -y "
	if _, err := w.must(ctx, box, "mkdir -p /var/lib/apt/lists/partial /var/cache/apt/archives/partial && "+
		apt+"update && "+apt+"install --no-install-recommends aether-greeting"); err != nil {
		return err
	}
	out, err := w.must(ctx, box, "aether-greeting")
	return errors.Join(err, want("what the package says", out, "installed from the mirror\n"))
}
