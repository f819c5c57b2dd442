"""Certificates of peers that are to be refused, each made for one reason."""

import os

import pki

CLIENT_ID = pki.spiffe("shop", "client")


def good(mesh):
    return mesh.authority.workload("shop", "client")


def _other_authority(mesh):
    if not hasattr(mesh, "other_authority"):
        mesh.other_authority = pki.Authority(os.path.join(mesh.lab.directory, "wrong-ca"))
    return mesh.other_authority


def wrong_ca(mesh):
    """Of the same name and identity, by another root."""
    return _other_authority(mesh).workload("shop", "client")


def other_root(mesh):
    return _other_authority(mesh).certificate_path


def expired(mesh, ago=pki.HOUR):
    return mesh.authority.leaf([CLIENT_ID], pki.now() - ago - pki.HOUR, pki.now() - ago)


def not_yet_valid(mesh, ahead=pki.HOUR):
    return mesh.authority.leaf([CLIENT_ID], pki.now() + ahead, pki.now() + ahead + pki.HOUR)


def two_uris(mesh):
    return mesh.authority.leaf([CLIENT_ID, pki.spiffe("shop", "web")])


def no_uri(mesh):
    return mesh.authority.leaf([])


def other_domain(mesh):
    return mesh.authority.leaf([pki.spiffe("shop", "client", "elsewhere.example")])


def a_ca_as_leaf(mesh):
    return mesh.authority.leaf([CLIENT_ID], authority=True)


def server_only(mesh):
    return mesh.authority.leaf([CLIENT_ID], usages=("serverAuth",))


def not_spiffe(mesh):
    return mesh.authority.leaf(["https://lab.example/ns/shop/sa/client"])


def odd_case(mesh):
    return mesh.authority.leaf(["spiffe://LAB.example/ns/shop/sa/client"])
