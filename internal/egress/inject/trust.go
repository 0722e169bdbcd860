package inject

import "bytes"

// BundleFile is where a sandbox is to have its trusted certificates, those of its image and its authority.
const BundleFile = "/etc/aether-certificates.pem"

// ImageBundles are where images have the certificates that they trust, of which the first that is there counts.
func ImageBundles() []string {
	return []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"}
}

// Bundle is the content of BundleFile: what the image trusts, which may be nothing, and the authority.
func (i *Injector) Bundle(image []byte) []byte {
	var b bytes.Buffer
	b.Write(image)
	if len(image) > 0 && !bytes.HasSuffix(image, []byte("\n")) {
		b.WriteByte('\n')
	}
	b.Write(i.authority.pem)
	return b.Bytes()
}

// Environment has the programs of a sandbox trust BundleFile: OpenSSL and what is built on it, Go, Python's requests
// and pip, Node, curl, git, AWS's.
func Environment() []string {
	var env []string
	for _, name := range []string{"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "AWS_CA_BUNDLE"} {
		env = append(env, name+"="+BundleFile)
	}
	return env
}
