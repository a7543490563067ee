"""What is mended on LIT's page (lit-nlp 1.3.1): pieces of its bundle, and what stands in their place."""

#: LIT shows names of columns and labels as Markdown. Here it shows none of their HTML, images and odd links.
_MARKDOWN = (
    b"const r=Q(t,{renderer:n})",
    b"const i=n.link;n.image=(t,r,l)=>l;n.link=(t,r,l)=>/^https:/.test(t)?i(t,r,l):l;"
    b'const r=Q(String(t).replace(/<(?!br>)/g,"&lt;"),{renderer:n})',
)
#: Another "Target field" in Salience Maps changed nothing until another text was chosen.
_TARGET_FIELD = (
    b"this.react((()=>this.salienceTarget),(()=>{this.shouldRun",
    b"this.react((()=>[this.targetField,this.salienceTarget]),(()=>{this.shouldRun",
)
_ITS_CLASS = (
    b"@change=${t=>{this.targetField=t.target.value}}",
    b"@change=${t=>{this.targetField=t.target.value;this.updateToSelection(this.currentData)}}",
)
#: A number that was deleted in the editor could not be added.
_NO_NUMBER = (b'if(""!==t)return Number(t)', b'return""===t?null:Number(t)')

PATCHES = (_MARKDOWN, _TARGET_FIELD, _ITS_CLASS, _NO_NUMBER)


def patched(bundle: bytes) -> bytes:
    """LIT's main.js as it is served here."""
    for old, new in PATCHES:
        bundle = bundle.replace(old, new)
    return bundle
