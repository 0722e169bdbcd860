package main

import (
	"fmt"
	"os"

	"github.com/aethervm/aether/internal/agentproto"
	"github.com/aethervm/aether/internal/guest/files"
	"github.com/aethervm/aether/internal/guest/serve"
)

// runTree answers one request about what there is in the root, and in what is mounted at the paths in args. The request is
// read from stdin and the answers go to stdout, as frames of package agentproto; a failure is one of them.
func runTree(args []string) int {
	payload, err := treeRequest(args)
	last := agentproto.AppendFrame(nil, agentproto.KindDone, payload)
	if err != nil {
		last = agentproto.AppendFrame(nil, agentproto.KindFail, agentproto.NewFailure(err).Append(nil))
	}
	if _, err := os.Stdout.Write(last); err != nil {
		return exitFailure
	}
	return exitOK
}

func treeRequest(others []string) ([]byte, error) {
	frame, err := agentproto.NewReader(os.Stdin).Next() // and no more: stdin need not end
	if err != nil {
		return nil, fmt.Errorf("read the request: %w", err)
	}
	if frame.Kind != agentproto.KindRequest {
		return nil, fmt.Errorf("%w: frame of kind %d in place of a request", agentproto.ErrProtocol, frame.Kind)
	}
	request, err := agentproto.DecodeRequest(frame.Payload)
	if err != nil {
		return nil, err
	}
	tree, err := files.WholeTree("/", others...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = tree.Close() }() // it was read only
	return serve.Tree(tree, request, os.Stdout)
}
