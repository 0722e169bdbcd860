package inject

import (
	"bytes"
	"io"
	"net/http"
)

// redactHeader overwrites secrets in the values of a header.
func redactHeader(h http.Header, secrets []string) {
	for _, values := range h {
		for i, text := range values {
			values[i] = redactText(text, secrets)
		}
	}
}

func redactText(text string, secrets []string) string {
	clean := []byte(text)
	for _, s := range secrets {
		overwrite(clean, []byte(text), []byte(s))
	}
	return string(clean)
}

// overwrite has asterisks in clean wherever text has the secret. It is looked for in what was said, not in what other
// secrets have left of it: they may have parts in common.
func overwrite(clean, text, secret []byte) {
	for at := 0; ; at++ {
		i := bytes.Index(text[at:], secret)
		if i < 0 {
			return
		}
		at += i
		copy(clean[at:], bytes.Repeat([]byte("*"), len(secret)))
	}
}

// interim is a writer of answers that overwrites secrets in the headers of those that come before the last one
// (status 1xx).
type interim struct {
	http.ResponseWriter
	secrets []string
}

// WriteHeader is http.ResponseWriter's.
func (w interim) WriteHeader(status int) {
	if status < http.StatusOK {
		redactHeader(w.Header(), w.secrets)
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w interim) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// redactor overwrites secrets in a stream, whose length stays as it is.
type redactor struct {
	r       io.Reader
	secrets [][]byte
	// What was read, and not handed out: as it came, and clean, the first safe bytes for good.
	raw, clean []byte
	safe       int
	err        error
}

func newRedactor(r io.Reader, secrets []string) *redactor {
	d := &redactor{r: r}
	for _, s := range secrets {
		d.secrets = append(d.secrets, []byte(s))
	}
	return d
}

func (d *redactor) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for d.safe == 0 {
		if d.err != nil {
			return 0, d.err
		}
		d.fill()
	}
	n := copy(p, d.clean[:d.safe])
	d.raw, d.clean, d.safe = d.raw[n:], d.clean[n:], d.safe-n
	return n, nil
}

// fill reads more. The end of what was read may be the beginning of a secret: as much is kept back as looks like
// one, so that an answer that comes in pieces is not held up.
func (d *redactor) fill() {
	chunk := make([]byte, 32<<10)
	n, err := d.r.Read(chunk)
	d.err = err
	d.raw, d.clean = append(d.raw, chunk[:n]...), append(d.clean, chunk[:n]...)
	for _, s := range d.secrets {
		overwrite(d.clean, d.raw, s)
	}
	d.safe = len(d.raw)
	if err != nil {
		return
	}
	for _, s := range d.secrets {
		for k := min(len(s)-1, len(d.raw)); k > 0; k-- {
			if bytes.HasSuffix(d.raw, s[:k]) {
				d.safe = min(d.safe, len(d.raw)-k)
				break
			}
		}
	}
}

// redactedBody is a body whose secrets are overwritten.
type redactedBody struct {
	io.Reader
	io.Closer
}
